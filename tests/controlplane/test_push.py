"""When views are built, and what happens when they cannot be."""

import asyncio
from collections.abc import AsyncIterator, Iterable

import pytest

from lateen.controlplane.connection import Connection
from lateen.controlplane.events import Events
from lateen.controlplane.inventory import Inventory, Origin
from lateen.controlplane.metrics import Metrics
from lateen.controlplane.names import PUSH_ORDER, RDS
from lateen.controlplane.proxy import Proxy
from lateen.controlplane.push import Debounce, Pusher
from lateen.controlplane.session import Refused, StreamSession, Style
from lateen.envoyapi.envoy.config.core.v3 import base_pb2
from lateen.mesh.identity import SpiffeId
from lateen.mesh.loader import Located, load_text
from lateen.mesh.meshconfig import MeshConfig
from lateen.mesh.view import MeshView
from tests.controlplane.harness import ChosenResources
from tests.controlplane.manifests import dns_entry
from tests.controlplane.test_quarantine import configuration
from tests.fakes.clock import FakeClock


def entry(name: str, host: str) -> Located:
    return load_text(dns_entry(name, host), "test.yaml").resources[0]


class Seen(ChosenResources):
    """Remembers the hosts of each view that could be built; those that hold `poison` cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.hosts: list[set[str]] = []

    def view(self, resources: Iterable[Located], mesh: MeshConfig) -> MeshView:
        hosts = {str(located.resource.to_dict()["spec"]["hosts"][0]) for located in resources}
        if any("poison" in host for host in hosts):
            raise RuntimeError("a bug of ours")
        self.hosts.append(hosts)
        return super().view(resources, mesh)


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.inventory = Inventory()
        self.translator = Seen()
        self.pusher = Pusher(
            self.translator,
            self.inventory.located,
            MeshConfig,
            clock=self.clock,
            metrics=Metrics("test"),
            events=Events(),
            debounce=Debounce(0.1, 1.0),
        )

    def change(self, *located: Located) -> None:
        self.inventory.change(Origin.API, located)
        self.pusher.changed("api")

    async def views(self, count: int) -> None:
        """Wait (in real time: the worker is a thread) until so many views have been built."""
        async with asyncio.timeout(60):
            while len(self.translator.hosts) < count:  # noqa: ASYNC110 - it happens in a thread
                await asyncio.sleep(0.001)

    async def shows(self, *hosts: str) -> None:
        """Let time go by until the newest view has these hosts."""
        async with asyncio.timeout(60):
            while self.translator.hosts[-1] != set(hosts):
                await self.clock.advance(0.05)
                await asyncio.sleep(0.001)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    running = asyncio.create_task(made.pusher.run())
    yield made
    running.cancel()
    await made.pusher.close()


async def test_a_change_is_pushed_when_changes_pause(world: World) -> None:
    world.change(entry("a", "a1.example"))
    await world.clock.advance(0.09)
    world.change(entry("a", "a2.example"))
    await world.clock.advance(0.09)
    assert world.translator.hosts == []
    await world.clock.advance(0.02)
    await world.views(1)
    assert world.translator.hosts == [{"a2.example"}]


async def test_changes_that_never_pause_are_pushed_after_a_second(world: World) -> None:
    for step in range(12):
        world.change(entry("a", f"a{step}.example"))
        await world.clock.advance(0.09)
    await world.views(1)
    assert len(world.translator.hosts) == 1


async def test_the_change_that_breaks_the_view_is_left_out_and_the_others_go_on(world: World) -> None:
    world.change(entry("a", "a1.example"), entry("b", "b1.example"))
    await world.pusher.flush()
    world.change(entry("a", "a2.example"), entry("b", "poison.example"), entry("c", "c1.example"))
    await world.pusher.flush()
    assert world.translator.hosts[-1] == {"a2.example", "b1.example", "c1.example"}
    assert world.pusher.view_errors == {"ServiceEntry/shop/b": "RuntimeError: a bug of ours"}
    world.change(entry("b", "b2.example"))
    await world.pusher.flush()
    assert world.translator.hosts[-1] == {"a2.example", "b2.example", "c1.example"}
    assert world.pusher.view_errors == {}


async def test_of_two_changes_the_one_to_blame_is_found_though_a_proxy_never_answers(world: World) -> None:
    old, new, bad = entry("a", "a1.example"), entry("a", "a2.example"), entry("b", "b1.example")
    world.change(old)
    await world.pusher.flush()
    proxy = Proxy.from_node(base_pb2.Node(id="sidecar~10.0.0.1~orders-0.shop~shop.svc.cluster.local"))
    await world.pusher.attach(
        Connection(
            1,
            proxy,
            SpiffeId("cluster.local", "shop", "x"),
            frozenset(PUSH_ORDER),
            StreamSession(Style.DELTA),
            world.clock.now(),
        )
    )
    a, b = old.resource.key, bad.resource.key
    accepted = configuration((a, "/old"))
    world.change(new, bad)
    await world.pusher.flush()
    world.pusher.refused(Refused(RDS, configuration((a, "/new"), (b, "/bad")), "no", accepted))
    assert list(world.pusher.quarantine.undecided) == [a, b]
    await world.shows("a1.example")
    await world.shows("a2.example")
    await world.shows("a2.example", "b1.example")
    world.pusher.refused(Refused(RDS, configuration((a, "/new"), (b, "/bad")), "no", configuration((a, "/new"))))
    await world.shows("a2.example")
    assert list(world.pusher.quarantine.undecided) == []
    assert [q.located for q in world.pusher.quarantine.refusals] == [bad]
