"""The delta ADS client: its protocol without I/O, and against a real gRPC server with mutual TLS."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping

import grpc
import pytest

from lateen.adsclient.client import AdsClient, Backoff, ResourcesRejected, Subscription, service_node, stop
from lateen.envoyapi.envoy.service.discovery.v3 import discovery_pb2
from tests.fakes.control_plane import DeltaAds, serve_ads
from tests.fakes.pki import Pair, TestAuthority

TYPE = "type.googleapis.com/lateen.dev.v1alpha1.WorkloadPolicy"
NODE = service_node(name="n-0", namespace="istio-system", address="127.0.0.1", service_account="lateen-extauthz")
FAST = Backoff(base=0.02, ceiling=0.05)


class Held:
    """An owner that keeps what it is given, and refuses resources whose bytes say so."""

    def __init__(self) -> None:
        self.resources: dict[str, bytes] = {}

    def take(self, changed: Mapping[str, bytes], removed: Collection[str]) -> None:
        reasons = {name: "says so" for name, data in changed.items() if data == b"bad"}
        if b"bug" in changed.values():
            raise ZeroDivisionError("bug")
        self.resources.update({n: d for n, d in changed.items() if n not in reasons})
        for name in removed:
            self.resources.pop(name, None)
        if reasons:
            raise ResourcesRejected(reasons)


class HeldIdentity:
    """The credentials of a fixed pair."""

    def __init__(self, pair: Pair, roots: str) -> None:
        self._pair = pair
        self._roots = roots

    async def wait_ready(self) -> None:
        """Ready from the start."""

    def channel_credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(
            self._roots.encode(), self._pair.key.encode(), self._pair.certificate.encode()
        )


def response(nonce: str, removed: Collection[str] = (), **resources: bytes) -> discovery_pb2.DeltaDiscoveryResponse:
    made = discovery_pb2.DeltaDiscoveryResponse(type_url=TYPE, nonce=nonce, removed_resources=removed)
    for name, data in resources.items():
        resource = made.resources.add(name=name, version=f"{name}@{nonce}")
        resource.resource.type_url = TYPE
        resource.resource.value = data
    return made


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def subscription(held: Held) -> Subscription:
    return Subscription(NODE, TYPE, held.take)


def test_the_first_request_subscribes_to_everything(subscription: Subscription) -> None:
    request = subscription.first_request()
    assert list(request.resource_names_subscribe) == ["*"]
    assert request.node.id == "service~127.0.0.1~n-0.istio-system~istio-system.svc.cluster.local"
    assert not request.initial_resource_versions


def test_an_accepted_response_is_acknowledged_with_its_nonce(subscription: Subscription, held: Held) -> None:
    answer = subscription.on_response(response("1", a=b"x"))
    assert (answer.response_nonce, answer.HasField("error_detail")) == ("1", False)
    assert held.resources == {"a": b"x"}
    assert subscription.versions == {"a": "a@1"}


def test_a_refused_resource_is_named_and_the_others_are_kept(subscription: Subscription, held: Held) -> None:
    subscription.on_response(response("1", a=b"old"))
    answer = subscription.on_response(response("2", a=b"bad", b=b"new"))
    assert answer.response_nonce == "2"
    assert answer.error_detail.message == "a: says so"
    assert held.resources == {"a": b"old", "b": b"new"}
    assert subscription.versions == {"a": "a@1", "b": "b@2"}


def test_a_bug_of_the_owner_becomes_a_nack(subscription: Subscription) -> None:
    answer = subscription.on_response(response("1", a=b"bug"))
    assert answer.error_detail.message == "a: ZeroDivisionError: bug"
    assert subscription.versions == {}


def test_resources_and_responses_of_another_type_are_refused(subscription: Subscription, held: Held) -> None:
    strange = response("1", a=b"x")
    strange.resources[0].resource.type_url = "type.googleapis.com/other"
    assert "a: is a type.googleapis.com/other" in subscription.on_response(strange).error_detail.message
    strange.type_url = "type.googleapis.com/other"
    answer = subscription.on_response(strange)
    assert answer.type_url == "type.googleapis.com/other"
    assert "not subscribed" in answer.error_detail.message
    assert held.resources == {}


def test_a_new_stream_announces_what_is_held(subscription: Subscription) -> None:
    subscription.on_response(response("1", a=b"x", b=b"y"))
    subscription.on_response(response("2", removed=["b"]))
    assert dict(subscription.first_request().initial_resource_versions) == {"a": "a@1"}


def test_backoff_grows_and_stays_within_its_bounds() -> None:
    backoff = Backoff(base=0.2, ceiling=10.0)
    assert [backoff.delay(n, 1.0) for n in (0, 1, 2, 50)] == [0.2, 0.4, 0.8, 10.0]
    assert backoff.delay(50, 0.0) == 0.1


@pytest.fixture
def authority() -> TestAuthority:
    return TestAuthority()


@pytest.fixture
async def ads() -> DeltaAds:
    return DeltaAds(TYPE)


@pytest.fixture
async def server(ads: DeltaAds, authority: TestAuthority) -> AsyncIterator[tuple[grpc.aio.Server, str]]:
    started = await serve_ads(ads, authority)
    yield started
    await started[0].stop(None)


@pytest.fixture
def identity(authority: TestAuthority) -> HeldIdentity:
    return HeldIdentity(authority.issue("spiffe://cluster.local/ns/istio-system/sa/lateen-extauthz"), authority.root)


async def until_held(held: Held, expected: dict[str, bytes]) -> None:
    async with asyncio.timeout(10):
        while held.resources != expected:  # noqa: ASYNC110 - what is awaited happens behind a socket
            await asyncio.sleep(0.005)


async def until_connected(client: AdsClient, *, expected: bool) -> None:
    async with asyncio.timeout(10):
        while client.connected is not expected:  # noqa: ASYNC110 - what is awaited happens behind a socket
            await asyncio.sleep(0.005)


async def test_changes_arrive_over_mutual_tls(
    server: tuple[grpc.aio.Server, str], ads: DeltaAds, identity: HeldIdentity, held: Held
) -> None:
    await ads.put("a", b"1")
    client = AdsClient(server[1], identity, NODE, TYPE, held.take, backoff=FAST)
    task = asyncio.create_task(client.run())
    await until_held(held, {"a": b"1"})
    await ads.put("b", b"2")
    await until_held(held, {"a": b"1", "b": b"2"})
    await ads.remove("a")
    await until_held(held, {"b": b"2"})
    await ads.put("c", b"bad")
    assert (await ads.wait_for_answer(4)).error_detail.message == "c: says so"
    assert client.connected
    await stop(task)


async def test_after_an_outage_only_what_changed_is_sent_again(
    authority: TestAuthority,
    server: tuple[grpc.aio.Server, str],
    ads: DeltaAds,
    identity: HeldIdentity,
    held: Held,
) -> None:
    await ads.put("a", b"1")
    await ads.put("b", b"2")
    client = AdsClient(server[1], identity, NODE, TYPE, held.take, backoff=FAST)
    task = asyncio.create_task(client.run())
    await until_held(held, {"a": b"1", "b": b"2"})
    await server[0].stop(None)
    await ads.put("b", b"3")
    await ads.remove("a")
    assert held.resources == {"a": b"1", "b": b"2"}
    await until_connected(client, expected=False)
    again, _ = await serve_ads(ads, authority, server[1])
    await until_held(held, {"b": b"3"})
    await until_connected(client, expected=True)
    assert any(set(r.initial_resource_versions) == {"a", "b"} for r in ads.requests)
    await stop(task)
    await again.stop(None)


async def test_a_server_of_another_name_is_not_believed(
    server: tuple[grpc.aio.Server, str], ads: DeltaAds, identity: HeldIdentity, held: Held
) -> None:
    await ads.put("a", b"1")
    client = AdsClient(
        server[1], identity, NODE, TYPE, held.take, server_name="lateen-ca.istio-system.svc", backoff=FAST
    )
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.run(), 0.7)
    assert held.resources == {}
    assert not client.synced.is_set()
    assert not client.connected
