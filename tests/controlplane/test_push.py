"""When views are built, and what happens when they cannot be."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable

import pytest

from lateen.controlplane.blobs import Blob
from lateen.controlplane.connection import Connection
from lateen.controlplane.envoy_trial import TrialUnavailableError
from lateen.controlplane.events import Events
from lateen.controlplane.inventory import Inventory, Origin
from lateen.controlplane.metrics import Metrics
from lateen.controlplane.names import PUSH_ORDER, RDS
from lateen.controlplane.proxy import Proxy
from lateen.controlplane.push import Debounce, Pusher
from lateen.controlplane.session import Refused, StreamSession, Style
from lateen.envoyapi.envoy.config.core.v3 import base_pb2
from lateen.envoyapi.envoy.config.route.v3 import route_pb2
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
        self.go = threading.Event()
        self.go.set()

    def view(self, resources: Iterable[Located], mesh: MeshConfig) -> MeshView:
        assert self.go.wait(60)
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
            trial=self.trial,
        )
        self.tried: list[set[str]] = []
        self.can_try = True

    async def trial(self, configuration: route_pb2.RouteConfiguration) -> str:
        """An Envoy that refuses every route called /bad."""
        if not self.can_try:
            raise TrialUnavailableError("there is no envoy")
        self.tried.append({route.match.prefix for host in configuration.virtual_hosts for route in host.routes})
        return "no such thing" if "/bad" in self.tried[-1] else ""

    async def proxy(self, blob: Blob) -> Connection:
        """A sidecar that is to have this."""
        proxy = Proxy.from_node(base_pb2.Node(id="sidecar~10.0.0.1~orders-0.shop~shop.svc.cluster.local"))
        self.translator.of["orders-0"] = [blob]
        identity, session = SpiffeId("cluster.local", "shop", "x"), StreamSession(Style.DELTA)
        connection = Connection(1, proxy, identity, frozenset(PUSH_ORDER), session, self.clock.now())
        await self.pusher.attach(connection)
        return connection

    def change(self, *located: Located) -> None:
        self.inventory.change(Origin.API, located)
        self.pusher.changed("api")

    async def views(self, count: int) -> None:
        """Wait (in real time: the worker is a thread) until so many views have been built."""
        async with asyncio.timeout(60):
            while len(self.translator.hosts) < count:  # noqa: ASYNC110 - it happens in a thread
                await asyncio.sleep(0.001)

    async def shows(self, *hosts: str) -> None:
        """Let time go by until the newest view has these hosts, and is pushed."""
        async with asyncio.timeout(60):
            while self.translator.hosts[-1] != set(hosts):
                await self.clock.advance(0.05)
                await asyncio.sleep(0.001)
        await self.pushed()

    async def pushed(self) -> None:
        """Wait (in real time) until no push is under way: what is refused meanwhile is judged later."""
        async with asyncio.timeout(60):
            while self.pusher.computing:  # noqa: ASYNC110 - it ends in a thread
                await asyncio.sleep(0.001)

    async def searched(self, event: Refused) -> None:
        """Tell a refusal, and wait for the end of the search that it begins."""
        await self.pushed()
        before = asyncio.all_tasks()
        self.pusher.refused(event)
        search = asyncio.all_tasks() - before
        assert search
        await asyncio.gather(*search)


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
    a, b = old.resource.key, bad.resource.key
    accepted = configuration((a, "/old"))
    await world.proxy(accepted)
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


A, B = entry("a", "a1.example"), entry("b", "b1.example")


async def refused_from_the_start(world: World) -> Blob:
    """A proxy of which nothing older is known refuses the routes of A and B."""
    world.change(A, B)
    await world.pusher.flush()
    blob = configuration((A.resource.key, "/good"), (B.resource.key, "/bad"))
    await world.proxy(blob)
    return blob


async def test_without_a_version_before_the_one_to_blame_is_tried_out(world: World) -> None:
    blob = await refused_from_the_start(world)
    for _ in range(3):
        world.pusher.refused(Refused(RDS, blob, "no"))
    await world.shows("a1.example")
    assert [(q.located, q.message) for q in world.pusher.quarantine.refusals] == [(B, "no such thing")]
    tried = len(world.tried)
    await world.searched(Refused(RDS, blob, "no"))
    assert len(world.tried) == tried, "it is known who is to blame"


async def test_without_an_envoy_to_ask_nobody_is_blamed(world: World) -> None:
    blob = await refused_from_the_start(world)
    world.can_try = False
    await world.searched(Refused(RDS, blob, "no"))
    assert not world.pusher.quarantine.refusals
    world.can_try = True
    world.pusher.refused(Refused(RDS, blob, "no"))
    await world.shows("a1.example")


@pytest.mark.parametrize("known", [True, False])
async def test_what_is_mended_while_its_refusal_arrives_is_not_blamed(world: World, *, known: bool) -> None:
    blob = await refused_from_the_start(world)
    accepted = configuration((A.resource.key, "/good")) if known else None
    mended = entry("b", "b2.example")
    world.translator.go.clear()
    world.change(mended)
    world.translator.of["orders-0"] = [configuration((A.resource.key, "/good"), (B.resource.key, "/mended"))]
    building = asyncio.create_task(world.pusher.flush())
    await asyncio.sleep(0)
    world.pusher.refused(Refused(RDS, blob, "no", accepted))
    world.translator.go.set()
    await building
    await world.shows("a1.example", "b2.example")
    assert not world.pusher.quarantine.refusals


async def test_what_is_still_wanted_is_judged_when_the_new_view_is_there(world: World) -> None:
    blob = await refused_from_the_start(world)
    world.translator.go.clear()
    world.change(entry("c", "c1.example"))
    building = asyncio.create_task(world.pusher.flush())
    await asyncio.sleep(0)
    world.pusher.refused(Refused(RDS, blob, "no", configuration((A.resource.key, "/good"))))
    assert not world.pusher.quarantine.refusals
    world.translator.go.set()
    await building
    assert [q.located for q in world.pusher.quarantine.refusals] == [B]
