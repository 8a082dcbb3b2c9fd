"""Several processes of the service on one port, behind a real Envoy: one service to whoever asks it."""

import asyncio
import json
import os
import re
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.extauthz.test_enforced_by_envoy import CHARGE, ORDERS, Mesh, running_mesh

pytestmark = pytest.mark.e2e


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Other processes have to act."""
    async with asyncio.timeout(40):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.1)


def workers_started(folder: Path) -> dict[int, int]:
    """The process of each worker, as the log has them."""
    lines = (folder / "extauthz.log").read_text().splitlines()
    events = [json.loads(line) for line in lines if line.startswith("{")]
    return {event["worker"]: event["pid"] for event in events if event["event"] == "worker started"}


def is_running(process: int) -> bool:
    return Path(f"/proc/{process}/exe").exists()


async def ready(mesh: Mesh) -> bool:
    return (await mesh.get("/readyz")).status_code == 200


async def denials_counted(mesh: Mesh) -> float:
    text = (await mesh.get("/metrics")).text
    found = re.search(r'^lateen_authz_decisions_total\{policy="none",verdict="deny"\} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def busiest(metrics: str) -> int:
    """The worker with the most connections."""
    found = re.findall(r'^lateen_wire_open_connections\{worker="(\d)"\} (\S+)$', metrics, re.MULTILINE)
    return int(max(found, key=lambda pair: float(pair[1]))[0])


async def test_workers_are_one_service(tmp_path: Path) -> None:
    async with running_mesh(tmp_path, "--workers", "2") as mesh:

        async def all_have_policies() -> bool:
            text = (await mesh.get("/metrics")).text
            return all(f'lateen_authz_workloads{{worker="{number}"}} 1.0' in text for number in range(2))

        async def denied_again() -> bool:
            return "x-lateen-denial" in (await mesh.call("GET", "/v1/charge", as_=ORDERS)).headers

        await until(lambda: ready(mesh))
        await mesh.apply(None, CHARGE)
        await until(all_have_policies)
        denials = [(await mesh.call("GET", "/v1/charge", as_=ORDERS)).headers["x-lateen-denial"] for _ in range(5)]
        # Whoever decided, any page of the service knows it.
        for denial in denials:
            assert (await mesh.denial(denial)).json()["id"] == denial
        assert (await mesh.denial("0" * 16)).status_code == 404
        assert await denials_counted(mesh) == 5

        # The worker that Envoy talks to dies: the other one takes over, it is started again, and nothing that was counted is lost.
        started = workers_started(tmp_path)
        assert sorted(started) == [0, 1]
        busy = busiest((await mesh.get("/metrics")).text)
        os.kill(started[busy], signal.SIGKILL)
        await until(denied_again)
        assert await denials_counted(mesh) >= 6
        await until(lambda: ready(mesh))
        assert workers_started(tmp_path)[busy] != started[busy]

        mesh.service.send_signal(signal.SIGTERM)
        async with asyncio.timeout(40):
            assert await mesh.service.wait() == 0
    assert not [process for process in workers_started(tmp_path).values() if is_running(process)]
