"""Who is to blame for a refused route configuration, asked of a real Envoy."""

import pytest

from lateen.controlplane.blobs import Blob, Blobs
from lateen.controlplane.names import RDS
from lateen.controlplane.protos import metadata
from lateen.controlplane.route_trial import MAX_TRIALS, guilty, try_routes
from lateen.envoyapi.envoy.config.route.v3 import route_pb2
from lateen.mesh.kinds import ResourceKey
from tests.controlplane.test_quarantine import configuration

REFUSED = "%FILTER_STATE(a:NOPE)%"


def key(name: str) -> ResourceKey:
    return ResourceKey("VirtualService", "shop", name)


def mesh(count: int, *bad: int) -> Blob:
    """A virtual host for each of so many VirtualServices, two routes in each; what `bad` ones add to requests Envoy refuses."""
    made = route_pb2.RouteConfiguration(name="http_proxy")
    for number in range(count):
        origins = [key(f"v{number}")]
        service = ResourceKey("Service", "shop", f"s{number}")
        host = made.virtual_hosts.add(name=f"s{number}", domains=[f"s{number}"], metadata=metadata([service, *origins]))
        for prefix in ("/a", "/"):
            route = host.routes.add(metadata=metadata(origins))
            route.match.prefix, route.route.cluster = prefix, "nowhere"
        if number in bad:
            added = host.routes[-1].request_headers_to_add.add()
            added.header.key, added.header.value = "x-a", REFUSED
    rest = made.virtual_hosts.add(name="rest", domains=["*"])
    rest.routes.add().match.prefix = "/"
    rest.routes[0].route.cluster = "passthrough"
    return Blobs().intern(RDS, made.name, made)


class Counting:
    """The real trial, and how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def __call__(self, configuration: route_pb2.RouteConfiguration) -> str:
        self.asked += 1
        return await try_routes(configuration)


@pytest.mark.e2e
async def test_the_real_envoy_says_who_is_to_blame() -> None:
    trial = Counting()
    found = await guilty(mesh(16, 3, 12), trial)
    assert [keys for keys, _ in found] == [{key("v3")}, {key("v12")}]
    assert all("Invalid filter state serialize type" in words for _, words in found)
    assert trial.asked < 25
    assert await guilty(mesh(16, 3), trial, {key("v3")}) == ()
    assert await guilty(mesh(3), trial) == ()


async def test_what_is_only_refused_together_is_nobodys_fault() -> None:
    async def not_both(configuration: route_pb2.RouteConfiguration) -> str:
        return "too many" if len(configuration.virtual_hosts) > 3 else ""

    assert await guilty(mesh(8), not_both) == ()


async def test_a_virtual_host_is_tried_apart_from_its_routes() -> None:
    async def no_host(configuration: route_pb2.RouteConfiguration) -> str:
        return "no" if any("s2" in host.domains for host in configuration.virtual_hosts) else ""

    ((keys, words),) = await guilty(mesh(4), no_host)
    assert keys == {key("v2"), ResourceKey("Service", "shop", "s2")}
    assert words == "no"


async def test_what_is_ours_has_no_culprit() -> None:
    async def no_rest(configuration: route_pb2.RouteConfiguration) -> str:
        return "no" if any(host.name == "rest" for host in configuration.virtual_hosts) else ""

    assert await guilty(mesh(4), no_rest) == ()


async def test_a_search_has_an_end() -> None:
    asked = 0

    async def nothing(configuration: route_pb2.RouteConfiguration) -> str:
        nonlocal asked
        asked += 1
        return "no"

    found = await guilty(mesh(2 * MAX_TRIALS), nothing)
    assert asked == MAX_TRIALS
    assert len(found) > MAX_TRIALS // 4


async def test_bytes_that_are_no_message_blame_nobody() -> None:
    assert await guilty(Blob(RDS, "r", "h", b"\xff\xff"), try_routes) == ()
    assert await guilty(configuration(), try_routes) == ()
