"""The service stopped, killed and reloaded under load: nothing unchecked gets through, and with two replicas no request fails."""

import asyncio
import contextlib
import signal
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.extauthz.test_enforced_by_envoy import Mesh, free_port, running_mesh

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

OPEN, CLOSED = "/open", "/closed"
ONLY_OPEN = {"rules": [{"to": [{"operation": {"paths": [OPEN]}}]}]}


@contextlib.asynccontextmanager
async def load(mesh: Mesh) -> AsyncIterator[Counter[tuple[str, int]]]:
    """Steady requests that may pass and that may not; complete when the block ends."""
    statuses = Counter[tuple[str, int]]()
    stop = asyncio.Event()
    context = ssl.create_default_context(cadata=mesh.authority.root)

    async def ask(client: httpx.AsyncClient, path: str) -> None:
        while not stop.is_set():
            answer = await client.get(
                f"https://127.0.0.1:{mesh.port}{path}",
                headers={"host": "payments"},
                extensions={"sni_hostname": "payments"},
            )
            statuses[path, answer.status_code] += 1

    async with httpx.AsyncClient(verify=context, trust_env=False, timeout=60) as client:
        tasks = [asyncio.create_task(ask(client, path)) for path in (OPEN, CLOSED) * 2]
        try:
            yield statuses
        finally:
            stop.set()
            await asyncio.gather(*tasks)


async def more(statuses: Counter[tuple[str, int]], wanted: tuple[str, int], count: int = 30) -> None:
    """Wait for further answers of a kind."""
    seen = statuses[wanted]
    async with asyncio.timeout(90):
        while statuses[wanted] < seen + count:  # noqa: ASYNC110 - what is awaited is traffic
            await asyncio.sleep(0.01)


async def test_without_the_service_nothing_gets_through_and_it_recovers(tmp_path: Path) -> None:
    async with running_mesh(tmp_path) as mesh:
        await mesh.apply(None, ONLY_OPEN)
        async with load(mesh) as statuses:
            await more(statuses, (OPEN, 200))
            for number in (signal.SIGKILL, signal.SIGTERM):
                mesh.service.send_signal(number)
                await asyncio.wait_for(mesh.service.wait(), 60)
                await more(statuses, (OPEN, 403))
                await mesh.restart()
                await more(statuses, (OPEN, 200))
            for i in range(10):
                await mesh.apply(
                    None, ONLY_OPEN, {"action": "DENY", "rules": [{"to": [{"operation": {"paths": [f"/{i}"]}}]}]}
                )
        assert {status for path, status in statuses if path == CLOSED} == {403}
        assert {status for path, status in statuses if path == OPEN} == {200, 403}


async def test_with_two_replicas_no_request_fails(tmp_path: Path) -> None:
    async with running_mesh(tmp_path, replicas=2) as mesh:
        await mesh.apply(None, ONLY_OPEN)
        async with load(mesh) as statuses:
            for replica, number in ((0, signal.SIGKILL), (1, signal.SIGTERM), (1, signal.SIGKILL)):
                await more(statuses, (OPEN, 200))
                mesh.services[replica].send_signal(number)
                await asyncio.wait_for(mesh.services[replica].wait(), 60)
                await more(statuses, (OPEN, 200))
                await mesh.restart(replica)
            await more(statuses, (OPEN, 200))
        assert set(statuses) == {(OPEN, 200), (CLOSED, 403)}, statuses


async def test_a_replica_that_hangs_fails_no_request(tmp_path: Path) -> None:
    """Nor does one that is slow: a try is given up after a second, and another replica is asked."""
    async with running_mesh(tmp_path, replicas=2) as mesh:
        await mesh.apply(None, ONLY_OPEN)
        async with load(mesh) as statuses:
            await more(statuses, (OPEN, 200))
            mesh.services[0].send_signal(signal.SIGSTOP)
            try:
                await more(statuses, (OPEN, 200), 8)
            finally:
                mesh.services[0].send_signal(signal.SIGCONT)
            await more(statuses, (OPEN, 200))
        assert set(statuses) == {(OPEN, 200), (CLOSED, 403)}, statuses


async def test_a_replica_without_policies_is_passed_over(tmp_path: Path) -> None:
    """Its control plane cannot be reached when it starts: its neighbour decides, and alone it lets nothing through."""
    async with running_mesh(tmp_path, replicas=2) as mesh:
        await mesh.apply(None, ONLY_OPEN)
        mesh.services[0].kill()
        await mesh.services[0].wait()
        arguments = mesh.arguments[0]
        arguments[arguments.index("--ads-address") + 1] = f"127.0.0.1:{free_port()}"
        async with load(mesh) as statuses:
            await more(statuses, (OPEN, 200))
            await mesh.restart(0)
            assert (await mesh.get("/readyz")).status_code == 503
            await more(statuses, (OPEN, 200))
            assert set(statuses) == {(OPEN, 200), (CLOSED, 403)}, statuses
            mesh.services[1].kill()
            await mesh.services[1].wait()
            await more(statuses, (OPEN, 403))
        assert {status for path, status in statuses if path == CLOSED} == {403}
