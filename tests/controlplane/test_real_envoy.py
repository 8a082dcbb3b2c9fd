"""A real Envoy and our ADS server: what is pushed is served, what is refused changes nothing, restarts go unnoticed."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from lateen.controlplane.blobs import Blob
from lateen.controlplane.names import LDS
from lateen.controlplane.session import SyncState
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.yaml_source import SourceMap
from tests.controlplane.harness import Harness, running
from tests.controlplane.pki import Authority
from tests.controlplane.real_envoy import (
    Envoy,
    cluster,
    endpoints,
    free_port,
    listener,
    routes,
    running_envoy,
    upstream,
)

pytestmark = pytest.mark.e2e

ORIGIN = ResourceKey("IstioGateway", "shop", "front")
PORT = 8080


@dataclass
class World:
    """A server, an Envoy that follows it, and two upstreams that say which they are."""

    harness: Harness
    envoy: Envoy
    ports: dict[str, int]
    http: httpx.AsyncClient

    def state(self, to: str, header: str = "", timeout_ms: int = 1000) -> list[Blob]:
        """Everything Envoy needs to send requests to `to`."""
        return [
            cluster(to, timeout_ms),
            endpoints(to, self.ports[to]),
            listener("front", self.envoy.host, PORT, "front"),
            routes("front", to, header),
        ]

    async def choose(self, *blobs: Blob) -> None:
        await self.harness.choose("app-1", *blobs)

    async def get(self) -> httpx.Response:
        return await self.http.get(f"http://{self.envoy.host}:{PORT}/")

    async def answers(self, text: str, header: str = "", within: float = 60.0) -> float:
        """Wait until requests are answered so; returns the seconds it took."""
        began = time.monotonic()
        seen = ""
        while time.monotonic() - began < within:
            try:
                response = await self.get()
                seen = f"{response.status_code} {response.text} {response.headers.get('x-version', '')}"
                if response.text == text and response.headers.get("x-version", "") == header:
                    return time.monotonic() - began
            except httpx.TransportError as error:
                seen = repr(error)
            await asyncio.sleep(0.005)
        raise AssertionError(f"last answer: {seen}\n{self.envoy.log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(params=["DELTA_GRPC", "GRPC"])
async def world(request: pytest.FixtureRequest, authority: Authority, tmp_path: Path) -> AsyncIterator[World]:
    async with (
        upstream("a") as a,
        upstream("b") as b,
        running(authority) as harness,
        httpx.AsyncClient(trust_env=False, timeout=30) as http,
        running_envoy(tmp_path, authority, harness.port, request.param) as envoy,
    ):
        yield World(harness, envoy, {"a": a, "b": b}, http)


async def until(true: Callable[[], Awaitable[bool]] | Callable[[], bool], within: float = 60.0) -> None:
    async with asyncio.timeout(within):
        while True:
            result = true()
            if result if isinstance(result, bool) else await result:
                return
            await asyncio.sleep(0.01)


def session_status(world: World) -> SyncState:
    (connection,) = world.harness.pusher.connections.values()
    return connection.session.status(time.monotonic())[LDS].status


async def test_what_is_pushed_is_served_and_followed_at_once(world: World) -> None:
    await world.choose(*world.state("a"))
    await world.answers("a")
    took = []
    for step, to in enumerate("bababa"):
        await world.choose(*world.state(to, str(step)))
        took.append(await world.answers(to, str(step)))
    assert min(took) < 3.0, took


async def test_a_changed_cluster_warms_at_once(world: World) -> None:
    await world.choose(*world.state("a"))
    await world.answers("a")
    before = await world.envoy.stat("cluster_manager.cluster_modified")
    await world.choose(*world.state("a", "2", timeout_ms=2000))
    # A cluster that waited for endpoints nobody sends would wait for Envoy's 15 s.
    await world.answers("a", "2", within=14)

    async def warmed() -> bool:
        modified = await world.envoy.stat("cluster_manager.cluster_modified")
        return modified > before and await world.envoy.stat("cluster_manager.warming_clusters") == 0

    await until(warmed)


async def test_no_request_fails_while_clusters_come_and_go(world: World) -> None:
    await world.choose(*world.state("a"))
    await world.answers("a")
    answers: list[int] = []
    stop = asyncio.Event()

    async def load() -> None:
        while not stop.is_set():
            answers.append((await world.get()).status_code)

    users = [asyncio.create_task(load()) for _ in range(3)]
    await asyncio.sleep(1)  # the first second of a stream is special: nothing is removed in it
    for step, to in enumerate("babababa"):
        await world.choose(*world.state(to, str(step)))
        await world.answers(to, str(step))
        await until(lambda: all(c.session.synced for c in world.harness.pusher.connections.values()))
        assert await world.envoy.clusters() == {to}
    stop.set()
    await asyncio.gather(*users)
    assert len(answers) > 30
    assert set(answers) == {200}


async def test_what_envoy_refuses_is_named_and_holds_nothing_else_back(world: World) -> None:
    world.harness.translator.sources[ORIGIN] = SourceMap("shop/front.yaml", "kind: Gateway\n", 12)
    await world.choose(*world.state("a"))
    await world.answers("a")
    bad = listener("second", world.envoy.host, PORT + 1, "front", ORIGIN, stat_prefix="")
    third = listener("third", world.envoy.host, PORT + 2, "front")
    await world.choose(*world.state("b", "new"), bad, third)
    await world.answers("b", "new")
    await until(lambda: session_status(world) is SyncState.NACK)
    assert (await world.http.get(f"http://{world.envoy.host}:{PORT + 2}/")).text == "b"
    (connection,) = world.harness.pusher.connections.values()
    (refusal,) = connection.session.refusals
    assert refusal.blob.name == "second"
    assert refusal.blob.origins == (ORIGIN,)
    assert "StatPrefix" in refusal.message
    mended = listener("second", world.envoy.host, PORT + 1, "front", ORIGIN)
    await world.choose(*world.state("b", "new"), mended, third)
    await until(lambda: session_status(world) is SyncState.SYNCED)
    assert (await world.http.get(f"http://{world.envoy.host}:{PORT + 1}/")).text == "b"


async def test_a_refused_update_leaves_the_old_listener_serving(world: World) -> None:
    await world.choose(*world.state("a"))
    await world.answers("a")
    good = world.state("a")
    bad = listener("front", world.envoy.host, PORT, "front", ORIGIN, stat_prefix="")
    await world.choose(*(bad if blob.type_url == LDS else blob for blob in good))
    await until(lambda: session_status(world) is SyncState.NACK)
    assert (await world.get()).text == "a"


async def test_a_stopped_envoy_gets_only_the_newest_state_when_it_goes_on(world: World) -> None:
    await world.choose(*world.state("a"))
    await world.answers("a")
    await until(lambda: all(c.session.synced for c in world.harness.pusher.connections.values()))
    os.kill(world.envoy.process.pid, signal.SIGSTOP)
    try:
        pushes = world.harness.value("pilot_xds_pushes_total", type="rds")
        for step in range(50):
            await world.choose(*world.state("ab"[step % 2], str(step)))
        assert world.harness.value("pilot_xds_pushes_total", type="rds") - pushes <= 1
    finally:
        os.kill(world.envoy.process.pid, signal.SIGCONT)
    await world.answers("b", "49")


@pytest.mark.parametrize("api_type", ["DELTA_GRPC"])
async def test_a_restart_of_the_control_plane_goes_unnoticed(
    api_type: str, authority: Authority, tmp_path: Path
) -> None:
    port = free_port()
    async with upstream("a") as a, upstream("b") as b, httpx.AsyncClient(trust_env=False, timeout=30) as http:
        async with running(authority, port=port) as first:
            envoys = running_envoy(tmp_path, authority, port, api_type)
            envoy = await envoys.__aenter__()
            world = World(first, envoy, {"a": a, "b": b}, http)
            await world.choose(*world.state("a"))
            await world.answers("a")
        try:
            for _ in range(20):
                assert (await world.get()).text == "a"
            async with running(authority, port=port) as second:
                world.harness = second
                await world.choose(*world.state("a"))
                await until(lambda: len(second.pusher.connections) == 1)
                await until(lambda: all(c.session.synced for c in second.pusher.connections.values()))
                sent = sum(second.value("pilot_xds_pushes_total", type=t) for t in ("cds", "eds", "lds", "rds"))
                assert sent == 0, "Envoy has everything already"
                await world.choose(*world.state("b", "after"))
                await world.answers("b", "after")
        finally:
            await envoys.__aexit__(None, None, None)
