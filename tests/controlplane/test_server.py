"""The ADS server, asked by a real gRPC client over mutual TLS."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import pytest

from lateen.controlplane.blobs import Blob, Blobs
from lateen.controlplane.names import CDS, EDS, LDS, RDS, WORKLOAD_LIMITS, WORKLOAD_POLICY
from lateen.controlplane.server import ServerLimits
from lateen.controlplane.session import Limits
from lateen.envoyapi.envoy.config.cluster.v3 import cluster_pb2
from lateen.envoyapi.envoy.config.endpoint.v3 import endpoint_pb2
from lateen.envoyapi.envoy.config.listener.v3 import listener_pb2
from lateen.envoyapi.lateen.v1alpha1 import workload_pb2
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.workloads import Workload
from lateen.mesh.yaml_source import SourceMap
from tests.controlplane.harness import Harness, event, running
from tests.controlplane.pki import Authority
from tests.controlplane.xds_client import DeltaClient, SotwClient, credentials, node

BLOBS = Blobs()
ORIGIN = ResourceKey("VirtualService", "shop", "reviews")


def cluster(name: str, alt: str = "") -> Blob:
    return BLOBS.intern(CDS, name, cluster_pb2.Cluster(name=name, alt_stat_name=alt), [ORIGIN])


def listener(name: str, prefix: str = "") -> Blob:
    return BLOBS.intern(LDS, name, listener_pb2.Listener(name=name, stat_prefix=prefix), [ORIGIN])


def endpoints(name: str) -> Blob:
    return BLOBS.intern(EDS, name, endpoint_pb2.ClusterLoadAssignment(cluster_name=name))


def policy(target: str, namespace: str = "") -> Blob:
    return BLOBS.intern(WORKLOAD_POLICY, target, workload_pb2.WorkloadPolicy(target=target, namespace=namespace))


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
async def mesh(authority: Authority) -> AsyncIterator[Harness]:
    async with running(authority) as harness:
        yield harness


@pytest.fixture
def patient_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener waits for its policy for longer than a test does: what comes has not come because time was up."""
    monkeypatch.setattr("lateen.controlplane.push.GATE_SECONDS", 600.0)


def client(mesh: Harness, name: str = "app-1", namespace: str = "shop", account: str = "app") -> DeltaClient:
    pair = mesh.authority.workload(namespace, account)
    return DeltaClient(mesh.port, credentials(mesh.authority, pair), node(name, namespace, account))


def service(mesh: Harness, account: str) -> DeltaClient:
    pair = mesh.authority.workload("istio-system", account)
    who = node(f"{account}-1", "istio-system", account, kind="service")
    return DeltaClient(mesh.port, credentials(mesh.authority, pair), who)


async def test_delta_serves_changes_and_removals(mesh: Harness) -> None:
    await mesh.choose("app-1", cluster("a"), cluster("b"))
    async with client(mesh) as envoy:
        await envoy.subscribe(CDS)
        await envoy.receive()
        assert {name: cluster_pb2.Cluster.FromString(value).name for name, value in envoy.resources[CDS].items()} == {
            "a": "a",
            "b": "b",
        }
        await mesh.choose("app-1", cluster("a", "new"), cluster("b"))
        response = await envoy.receive()
        assert [r.name for r in response.resources] == ["a"]
        assert cluster_pb2.Cluster.FromString(envoy.resources[CDS]["a"]).alt_stat_name == "new"
        await mesh.choose("app-1", cluster("a", "new"))
        response = await envoy.receive()
        assert list(response.removed_resources) == ["b"]


async def test_state_of_the_world_serves_the_same(mesh: Harness) -> None:
    await mesh.choose("app-1", cluster("a"), cluster("b"), endpoints("a"))
    pair = mesh.authority.workload("shop", "app")
    async with SotwClient(mesh.port, credentials(mesh.authority, pair), node()) as envoy:
        await envoy.subscribe(CDS)
        first = await envoy.receive()
        assert sorted(cluster_pb2.Cluster.FromString(r.value).name for r in first.resources) == ["a", "b"]
        await envoy.subscribe(EDS, "a")
        assert [
            endpoint_pb2.ClusterLoadAssignment.FromString(r.value).cluster_name
            for r in (await envoy.receive()).resources
        ] == ["a"]
        await mesh.choose("app-1", cluster("a", "new"), cluster("b"), endpoints("a"))
        second = await envoy.receive()
        assert {
            c.name: c.alt_stat_name for c in map(cluster_pb2.Cluster.FromString, (r.value for r in second.resources))
        } == {"a": "new", "b": ""}
        assert first.version_info != second.version_info


async def test_a_reconnecting_client_is_not_sent_what_it_has(mesh: Harness) -> None:
    await mesh.choose("app-1", cluster("a"), cluster("b"))
    async with client(mesh) as envoy:
        await envoy.subscribe(CDS)
        await envoy.receive()
        held = dict(envoy.versions[CDS])
    await mesh.choose("app-1", cluster("a"), cluster("b", "new"))
    async with client(mesh) as envoy:
        await envoy.subscribe(CDS, initial=held)
        assert [r.name for r in (await envoy.receive()).resources] == ["b"]


@pytest.mark.parametrize(
    ("name", "namespace", "account", "says"),
    [
        ("app-1", "other", "app", "may not act as app-1 of namespace other"),
        ("app-1", "shop", "admin", "may not act with service account admin"),
    ],
)
async def test_a_node_that_is_not_the_certificates_is_refused(
    mesh: Harness, name: str, namespace: str, account: str, says: str
) -> None:
    pair = mesh.authority.workload("shop", "app")
    async with DeltaClient(mesh.port, credentials(mesh.authority, pair), node(name, namespace, account)) as envoy:
        await envoy.subscribe(CDS)
        code, details = await envoy.end()
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert says in details
    assert mesh.value("lateen_xds_denied_total") == 1


async def test_a_workload_registered_with_another_service_account_is_refused(mesh: Harness) -> None:
    mesh.translator.workloads["shop", "app-1"] = Workload(
        name="app-1",
        namespace="shop",
        address="127.0.0.1",
        labels={},
        service_account="till",
        ports={},
        workload_name="app",
        key="shop/app",
    )
    await mesh.choose("app-1", cluster("a"))
    async with client(mesh) as envoy:
        await envoy.subscribe(CDS)
        code, details = await envoy.end()
    assert (code, "registered with service account till" in details) == (grpc.StatusCode.PERMISSION_DENIED, True)


async def test_certificates_are_required_and_must_be_of_our_root(mesh: Harness) -> None:
    strange = Authority()
    for channel_credentials in (
        grpc.ssl_channel_credentials(mesh.authority.root),
        grpc.ssl_channel_credentials(
            mesh.authority.root, (pair := strange.workload("shop", "app")).key, pair.certificate
        ),
    ):
        async with DeltaClient(mesh.port, channel_credentials, node()) as envoy:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await envoy.subscribe(CDS)
            assert (await envoy.end())[0] is grpc.StatusCode.UNAVAILABLE


async def test_two_spiffe_ids_in_a_certificate_are_none(mesh: Harness) -> None:
    ids = [f"spiffe://cluster.local/ns/shop/sa/{account}" for account in ("app", "admin")]
    async with DeltaClient(mesh.port, credentials(mesh.authority, mesh.authority.issue(*ids)), node()) as envoy:
        await envoy.subscribe(CDS)
        assert (await envoy.end())[0] is grpc.StatusCode.PERMISSION_DENIED


async def test_policies_and_limits_go_to_their_services_only(mesh: Harness) -> None:
    limits = BLOBS.intern(WORKLOAD_LIMITS, "shop/app", workload_pb2.WorkloadLimits(target="shop/app"))
    await mesh.choose("service", policy("shop/app"), limits)
    async with service(mesh, "lateen-extauthz") as authz, service(mesh, "lateen-ratelimit") as ratelimit:
        await authz.subscribe(WORKLOAD_POLICY)
        await ratelimit.subscribe(WORKLOAD_LIMITS)
        await authz.receive()
        await ratelimit.receive()
        assert (set(authz.resources), set(ratelimit.resources)) == ({WORKLOAD_POLICY}, {WORKLOAD_LIMITS})
        for denied in (CDS, WORKLOAD_LIMITS):
            async with service(mesh, "lateen-extauthz") as curious:
                await curious.subscribe(denied)
                assert (await curious.end())[0] is grpc.StatusCode.PERMISSION_DENIED
    async with client(mesh) as envoy:
        await envoy.subscribe(WORKLOAD_POLICY)
        assert (await envoy.end())[0] is grpc.StatusCode.PERMISSION_DENIED
    pair = mesh.authority.workload("shop", "lateen-extauthz")
    impostor = node("x", "shop", "lateen-extauthz", kind="service")
    async with DeltaClient(mesh.port, credentials(mesh.authority, pair), impostor) as false_friend:
        await false_friend.subscribe(WORKLOAD_POLICY)
        assert (await false_friend.end())[0] is grpc.StatusCode.PERMISSION_DENIED


async def test_a_refusal_is_reported_with_its_line_of_yaml(mesh: Harness) -> None:
    mesh.translator.sources[ORIGIN] = SourceMap("shop/reviews.yaml", "kind: VirtualService\n", 7)
    await mesh.choose("app-1", listener("bad"), listener("good"))
    with mesh.events.listen() as listening:
        async with client(mesh) as envoy:
            await envoy.subscribe(LDS)
            await envoy.receive(refuse="error adding listener bad: no filters")
            assert [r.name for r in (await envoy.receive()).resources] == ["good"]
            assert [r.name for r in (await envoy.receive(refuse="no filters")).resources] == ["bad"]
            told = await event(listening, "nack")
            assert {k: told[k] for k in ("type", "resource", "origin", "file", "line", "message")} == {
                "type": "LDS",
                "resource": "bad",
                "origin": "VirtualService/shop/reviews",
                "file": "shop/reviews.yaml",
                "line": 7,
                "message": "no filters",
            }
            assert mesh.value("pilot_total_xds_rejects_total", type="lds") == 2
            await mesh.choose("app-1", listener("bad"), listener("good", "2"))
            assert [r.name for r in (await envoy.receive()).resources] == ["good"]


async def test_a_snapshot_that_cannot_be_built_leaves_the_last_one_and_the_others(mesh: Harness) -> None:
    await mesh.choose("app-1", cluster("a"))
    await mesh.choose("app-2", cluster("a"))
    async with client(mesh) as broken, client(mesh, "app-2") as fine:
        for envoy in (broken, fine):
            await envoy.subscribe(CDS)
            await envoy.receive()
        mesh.translator.fail.add("app-1")
        mesh.translator.of["app-1"] = ()
        await mesh.choose("app-2", cluster("a"), cluster("b"))
        await fine.receive()
        assert [c.error for c in mesh.pusher.connections.values()] == ["RuntimeError: no snapshot for app-1", ""]
        mesh.translator.fail.clear()
        await mesh.choose("app-1", cluster("c"))
        assert {r.name for r in (await broken.receive()).resources} == {"c"}


async def test_a_view_that_cannot_be_built_leaves_the_last_one(mesh: Harness) -> None:
    await mesh.choose("app-1", cluster("a"))
    async with client(mesh) as envoy:
        await envoy.subscribe(CDS)
        await envoy.receive()
        mesh.translator.bad_views = 1
        await mesh.choose("app-1", cluster("b"))
        assert mesh.pusher.view_errors == {"the mesh": "RuntimeError: this view cannot be built"}
        mesh.translator.bad_views = 0
        await mesh.choose("app-1", cluster("b"))
        assert {r.name for r in (await envoy.receive()).resources} == {"b"}


@pytest.mark.usefixtures("patient_gate")
async def test_a_policy_is_taken_by_ext_authz_before_the_listener_that_needs_it_goes_out(mesh: Harness) -> None:
    await mesh.choose("app-1", listener("inbound"))
    async with service(mesh, "lateen-extauthz") as authz, client(mesh) as envoy:
        await authz.subscribe(WORKLOAD_POLICY)
        await authz.receive()
        await envoy.subscribe(LDS)
        await envoy.receive()
        mesh.translator.of["service"] = (policy("shop/app"),)
        await mesh.choose("app-1", listener("inbound", "with-authz"))
        given = await authz.read()
        with pytest.raises(TimeoutError):
            await envoy.read(timeout=0.3)
        await authz.answer(given)
        assert [r.name for r in (await envoy.read()).resources] == ["inbound"]


async def test_a_silent_ext_authz_holds_a_listener_back_for_two_seconds_only(mesh: Harness) -> None:
    mesh.translator.of["service"] = (policy("shop/app"),)
    await mesh.choose("app-1", listener("inbound"))
    async with service(mesh, "lateen-extauthz") as authz, client(mesh) as envoy:
        await authz.subscribe(WORKLOAD_POLICY)
        await authz.read()
        await envoy.subscribe(LDS)
        began = asyncio.get_running_loop().time()
        await envoy.receive()
        assert asyncio.get_running_loop().time() - began > 1.5


@pytest.mark.usefixtures("patient_gate")
async def test_a_policy_that_ext_authz_refuses_holds_nothing_back(mesh: Harness) -> None:
    mesh.translator.of["service"] = (policy("shop/app"),)
    await mesh.choose("app-1", listener("inbound"))
    async with service(mesh, "lateen-extauthz") as authz, client(mesh) as envoy:
        await authz.subscribe(WORKLOAD_POLICY)
        await authz.receive(refuse="cannot compile")
        await envoy.subscribe(LDS)
        await envoy.receive()


@pytest.mark.usefixtures("patient_gate")
async def test_an_ext_authz_that_leaves_holds_nothing_back(mesh: Harness) -> None:
    mesh.translator.of["service"] = (policy("shop/app"),)
    await mesh.choose("app-1", listener("inbound"))
    async with client(mesh) as envoy, service(mesh, "lateen-extauthz") as authz:
        await authz.subscribe(WORKLOAD_POLICY)
        await authz.read()
        await envoy.subscribe(LDS)
        with pytest.raises(TimeoutError):
            await envoy.read(timeout=0.3)
    async with client(mesh) as envoy:
        await envoy.subscribe(LDS)
        await envoy.receive()


async def test_a_stalled_client_does_not_hold_up_others_and_gets_the_newest_only(mesh: Harness) -> None:
    big = [cluster(f"c{i}", "x" * 10_000) for i in range(200)]
    await mesh.choose("app-1", *big)
    await mesh.choose("app-2", cluster("a"))
    async with client(mesh) as stalled, client(mesh, "app-2") as other:
        await stalled.subscribe(CDS)
        await stalled.read()
        await other.subscribe(CDS)
        await other.receive()
        for i in range(20):
            mesh.translator.of["app-1"] = [cluster(b.name, str(i) + "y" * 10_000) for b in big]
            await mesh.choose("app-2", cluster("a", str(i)))
            await other.receive()
        assert stalled.responses == 1
        session = next(c.session for c in mesh.pusher.connections.values() if c.proxy.name == "app-1")
        assert session.next_push(0.0) is None, "a second push while the first is not answered"


async def test_a_request_that_is_too_large_ends_the_stream(authority: Authority) -> None:
    async with running(authority, ServerLimits(stream=Limits(names=10))) as mesh, client(mesh) as envoy:
        await envoy.subscribe(EDS, *(str(i) for i in range(11)))
        assert (await envoy.end())[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_no_more_streams_than_allowed(authority: Authority) -> None:
    async with running(authority, ServerLimits(streams=1)) as mesh:
        await mesh.choose("app-1", cluster("a"))
        async with client(mesh) as first:
            await first.subscribe(CDS)
            await first.receive()
            async with client(mesh) as second:
                assert (await second.end())[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_node_without_id_is_told_what_is_wrong(mesh: Harness) -> None:
    who = node()
    who.id = "nonsense"
    pair = mesh.authority.workload("shop", "app")
    async with DeltaClient(mesh.port, credentials(mesh.authority, pair), who) as envoy:
        await envoy.subscribe(CDS)
        code, details = await envoy.end()
    assert (code, "nonsense" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)


async def test_connections_are_counted_and_told(mesh: Harness) -> None:
    with mesh.events.listen() as listening:
        async with client(mesh) as envoy:
            await envoy.subscribe(CDS)
            await envoy.receive()
            told = await event(listening, "connected")
            assert told["identity"] == "spiffe://cluster.local/ns/shop/sa/app"
            assert mesh.value("pilot_xds", type="sidecar") == 1
            await event(listening, "synced")
        await event(listening, "disconnected")
    assert mesh.value("pilot_xds", type="sidecar") == 0
    assert mesh.value("pilot_proxy_convergence_time_count") >= 1


async def test_a_name_without_resource_is_answered(mesh: Harness) -> None:
    async with client(mesh) as envoy:
        await envoy.subscribe(RDS, "nowhere")
        assert list((await envoy.receive()).removed_resources) == ["nowhere"]
