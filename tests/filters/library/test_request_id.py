"""request-id."""

import re
import uuid

import pytest

from filters.library.addresses import matches_identity, parse_networks, parse_source, within
from filters.library.request_id import RequestId, acceptable, new_id, uuid7, with_trace_reason
from lateen_filter import ConfigError
from lateen_filter.testing import FilterHostFactory

OLD = "6f1a4c1e-0d3b-9c2a-8e11-0123456789ab"


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        (OLD, True),
        ("Root=1-67891233-abcdef012345678912345678", True),
        ("a", True),
        ("", False),
        ("a b", False),
        ("a,b", False),
        ('a"b', False),
        ("grün", False),
        ("x\udcff", False),
        ("x" * 128, True),
        ("x" * 129, False),
        ("x" * 65536, False),
        ("abc\n", False),
    ],
)
def test_which_ids_may_stay(value: str, fits: bool) -> None:
    assert acceptable(value, 128) is fits


@pytest.mark.parametrize(
    ("old", "reason"),
    [
        (OLD, "9"),
        (OLD[:14] + "b" + OLD[15:], "b"),
        (OLD[:14] + "7" + OLD[15:], "4"),
        (OLD.replace("-", ""), "4"),
        ("x", "4"),
    ],
    ids=["sampled", "client", "not a reason", "not a uuid", "text"],
)
def test_envoys_trace_decision_stays(old: str, reason: str) -> None:
    assert with_trace_reason("11111111-1111-4111-8111-111111111111", old)[14] == reason
    assert with_trace_reason("0123456789abcdef", old) == "0123456789abcdef"


def test_formats() -> None:
    assert uuid.UUID(new_id("uuid4")).version == 4
    assert re.fullmatch("[0-9a-f]{32}", new_id("hex"))
    first, second = uuid7(1_700_000_000_000, 2**74 - 1), uuid7(1_700_000_000_001, 0)
    assert first < second
    # RFC 9562, appendix A.6
    assert str(uuid7(0x017F22E279B0, 0xCC3 << 62 | 0x18C4DC0C0C07398F)) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


@pytest.mark.parametrize(
    ("source", "inside"),
    [
        ("10.1.2.3:4711", True),
        ("11.1.2.3:4711", False),
        ("[::ffff:10.1.2.3]:80", True),
        ("[fd00::1]:80", True),
        ("[fe80::1]:80", False),
        ("/var/run/x.sock", False),
        ("", False),
        (None, False),
    ],
)
def test_addresses(source: str | None, inside: bool) -> None:
    assert within(parse_source(source), parse_networks(["10.0.0.0/8", "fd00::/8"])) is inside


def test_identities() -> None:
    assert matches_identity("spiffe://td/ns/a/sa/b", ["spiffe://td/ns/a/sa/b"])
    assert matches_identity("spiffe://td/ns/a/sa/b", ["spiffe://td/ns/a/*"])
    assert not matches_identity("spiffe://td/ns/ab/sa/b", ["spiffe://td/ns/a/*", "spiffe://td/ns/a"])
    assert not matches_identity(None, ["*"])


def test_an_external_id_is_replaced_and_an_internal_one_kept(either_host: FilterHostFactory) -> None:
    host = either_host(RequestId, {"copyTo": ["x-correlation-id"], "internalIdentities": ["spiffe://mesh/*"]})
    external = host.request(headers={"x-request-id": OLD, "x-correlation-id": "mine"})
    assert external.upstream_request is not None
    given = external.upstream_request.headers["x-request-id"]
    assert given != OLD
    assert given[14] == "9"
    assert external.upstream_request.headers["x-correlation-id"] == given == external.headers["x-request-id"]
    internal = host.request(headers={"x-request-id": OLD}, peer_identity="spiffe://mesh/ns/a/sa/b")
    assert internal.headers["x-request-id"] == OLD
    stranger = host.request(headers={"x-request-id": OLD}, peer_identity="spiffe://other/ns/a/sa/b")
    assert stranger.headers["x-request-id"] != OLD


def test_hostile_ids_are_replaced_even_where_ids_are_kept(filter_host: FilterHostFactory) -> None:
    host = filter_host(RequestId, {"keep": "always", "header": "x-correlation-id", "format": "hex"})
    kept = host.request(headers={"x-correlation-id": "abc"}).upstream_request
    assert kept is not None
    assert kept.headers["x-correlation-id"] == "abc"
    for bad in ("x" * 60_000, "a b", "a\udcff", "<script>"):
        found = host.request(headers={"x-correlation-id": bad}).upstream_request
        assert found is not None
        assert re.fullmatch("[0-9a-f]{32}", found.headers["x-correlation-id"])
    twice = host.request(headers=[("x-correlation-id", "a"), ("x-correlation-id", "b")]).upstream_request
    assert twice is not None
    assert len(twice.headers.get_all("x-correlation-id")) == 1


def test_addresses_make_a_client_internal_and_never_means_never(filter_host: FilterHostFactory) -> None:
    inside = filter_host(RequestId, {"internalAddresses": ["127.0.0.0/8"], "respond": False})
    answer = inside.request(headers={"x-request-id": "mine"})
    assert answer.upstream_request is not None
    assert answer.upstream_request.headers["x-request-id"] == "mine"
    assert "x-request-id" not in answer.headers
    never = filter_host(RequestId, {"keep": "never", "internalAddresses": ["127.0.0.0/8"]})
    assert never.request(headers={"x-request-id": "mine"}).headers["x-request-id"] != "mine"


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"keep": "sometimes"}, "keep"),
        ({"longest": 0}, "longest"),
        ({"header": "x y"}, "header: 'x y' is no header name"),
        ({"header": "Content-Length"}, "header: Content-Length cannot be changed"),
        ({"copyTo": ["host"]}, "copyTo: host"),
        ({"keep": "always", "internalAddresses": ["10.0.0.0/8"]}, "restrict nothing"),
        ({"internalIdentities": ["cluster.local/ns/a/sa/b"]}, "internalIdentities: .* begins with spiffe://"),
        ({"internalIdentities": ["spiffe://*/ns/a"]}, "can only be its end"),
        ({"internalAddresses": ["10.0.0.0/33"]}, "internalAddresses: .*10.0.0.0/33"),
        ({"internalAddresses": ["10.0.0.1/8"]}, "host bits"),
    ],
)
def test_bad_configurations(filter_host: FilterHostFactory, config: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        filter_host(RequestId, config)
