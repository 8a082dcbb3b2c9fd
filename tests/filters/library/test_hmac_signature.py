"""hmac-signature: RFC 9421's own example, and what must not pass."""

import base64
import time
from collections.abc import Callable, Mapping, Sequence

import pytest

from filters.library.hmac_signature import HmacSignature
from filters.library.http_signatures import (
    SignatureError,
    SignatureInput,
    Target,
    check_digest,
    content_digest,
    parse_bytes,
    parse_inputs,
    sign,
    signature_base,
    signed_headers,
)
from filters.library.replay import SHARDS, FullError, ReplayMemory, holds
from lateen_filter import ConfigError, SharedData
from lateen_filter.testing import Answer, FilterHost, FilterHostFactory

SECRET = base64.b64decode("uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==")
KEYS = [
    {"id": "shop", "secret": base64.b64encode(SECRET).decode(), "consumer": "the-shop"},
    {"id": "till", "secret": base64.b64encode(b"0" * 32).decode()},
]
COVERED = ("@method", "@authority", "@path", "@query")
RFC_INPUT = '("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"'
"""RFC 9421, B.2.5."""


def test_the_example_of_the_rfc() -> None:
    signed = parse_inputs(f"sig-b25={RFC_INPUT}")["sig-b25"]
    headers = {"date": ["Tue, 20 Apr 2021 02:07:55 GMT"], "content-type": ["application/json"]}
    base = signature_base(
        Target("POST", "https", "example.com", "/foo?param=Value&Pet=dog"), lambda name: headers[name], signed
    )
    assert base.decode().splitlines()[-1] == f'"@signature-params": {RFC_INPUT}'
    assert base64.b64encode(sign(SECRET, base)) == b"pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8="


def test_derived_components() -> None:
    """RFC 9421, 2.2."""
    names = ("@method", "@target-uri", "@authority", "@scheme", "@request-target", "@path", "@query", "x-a")
    base = signature_base(
        Target("GET", "https", "WWW.Example.com:443", "/path?a=b"),
        {"x-a": [" 1 ", "2"]}.__getitem__,
        SignatureInput(names, {"created": 1}),
    ).decode()
    assert base.splitlines() == [
        '"@method": GET',
        '"@target-uri": https://www.example.com/path?a=b',
        '"@authority": www.example.com',
        '"@scheme": https',
        '"@request-target": /path?a=b',
        '"@path": /path',
        '"@query": ?a=b',
        '"x-a": 1, 2',
        f'"@signature-params": ({" ".join(chr(34) + name + chr(34) for name in names)});created=1',
    ]
    bare = signature_base(
        Target("GET", "http", "a:8080", "/"), lambda _: [], SignatureInput(("@authority", "@query"), {})
    )
    assert bare.decode().splitlines()[:2] == ['"@authority": a:8080', '"@query": ?']


@pytest.mark.parametrize(
    "text",
    [
        'sig=("@method");created=1, sig=("@path");created=1',
        'sig=("@method" "@method");created=1',
        'sig=("@query-param";name="x");created=1',
        'sig=("@status");created=1',
        'sig=("X-Upper");created=1',
        'sig=("date";req);created=1',
        "sig=(date);created=1",
        'sig=("@method";created=1',
        'sig="@method";created=1',
        'sig=("@method");created=1;created=2',
        'sig=("@method");created=1234567890123456',
        'sig=("@method");created=1.5',
        'sig=("@method");nonce="a\x01b"',
        'sig=("@method");created=1,',
        'Sig=("@method");created=1',
        "sig=" + "(" * 3000,
        "x" * 65536,
        "sig=(" + " ".join(f'"h{number}"' for number in range(51)) + ")",
    ],
)
def test_what_cannot_be_read_is_an_error(text: str) -> None:
    with pytest.raises(SignatureError):
        parse_inputs(text)


def test_what_can_be_read() -> None:
    found = parse_inputs('a=("@method"  "date" );created=1;keyid="k\\"\\\\";tag, b=();nonce="x"')
    assert found["a"].components == ("@method", "date")
    assert found["a"].parameters == {"created": 1, "keyid": 'k"\\', "tag": True}
    assert found["a"].render() == '("@method" "date");created=1;keyid="k\\"\\\\";tag'
    assert found["b"].components == ()
    assert parse_inputs("") == {}
    assert parse_bytes("a=:AAE=:, b=::", "Signature") == {"a": b"\0\1", "b": b""}
    for bad in ("a=:x:", "a=:AAE=", "a=AAE=", "a=:AA E=:", "a=:AAE=:, a=:AAE=:"):
        with pytest.raises(SignatureError):
            parse_bytes(bad, "Signature")


def test_digests() -> None:
    check_digest(content_digest(b"body"), b"body")
    # RFC 9530, B.2 (sha-256) of {"hello": "world"} with a line feed
    check_digest("sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:", b'{"hello": "world"}\n')
    check_digest("md5=:AAE=:, " + content_digest(b"body"), b"body")
    for bad in (content_digest(b"Body"), "md5=:AAE=:", "", content_digest(b"body") + ", sha-512=:AAE=:"):
        with pytest.raises(SignatureError):
            check_digest(bad, b"body")


class Memory(SharedData):
    """Shared data in a dict."""

    def __init__(self) -> None:
        self.cells: dict[str, bytes] = {}

    def update(self, key: str, change: Callable[[bytes | None], bytes | str]) -> bytes:
        new = change(self.cells.get(key))
        assert isinstance(new, bytes)
        self.cells[key] = new
        return new


def _fill(memory: ReplayMemory, moment: int) -> None:
    for number in range(10_000):
        memory.add(moment, f"flood {number}".encode())


def test_replays_are_remembered_for_the_window_and_memory_is_bounded() -> None:
    shared = Memory()
    memory = ReplayMemory(shared, "m", window_seconds=60, per_second=4)
    start = 1_700_000_000
    for second in range(0, 600, 5):
        for older in range(0, 60, 5):
            if second >= older:
                fresh = memory.add(start + second - older, f"{second - older}".encode())
                assert fresh is (older == 0)
    assert len(shared.cells) <= memory.slots * SHARDS
    with pytest.raises(FullError):
        _fill(memory, start + 600)
    assert sum(map(len, shared.cells.values())) <= memory.most_bytes
    with pytest.raises(FullError):
        memory.add(start + 600 - memory.slots * memory.slot_seconds, b"before the window")


def test_a_digest_is_only_found_where_one_begins() -> None:
    cell = bytes(8) + b"A" * 12 + b"B" * 12
    assert holds(cell, b"A" * 12)
    assert holds(cell, b"B" * 12)
    assert not holds(cell, b"A" * 6 + b"B" * 6)
    assert not holds(bytes(8), b"\0" * 12)


def _send(
    host: FilterHost,
    *,
    method: str = "GET",
    path: str = "/pay?a=1",
    body: bytes | None = None,
    sent_body: bytes | None = None,
    components: Sequence[str] = COVERED,
    changed: Mapping[str, str] | None = None,
    sent_path: str = "",
    secret: bytes = SECRET,
    **parameters: str | int | None,
) -> Answer:
    """Sign a request, and send it with some of it changed."""
    given: dict[str, str | int | None] = {
        "created": int(time.time()),
        "keyid": "shop",
        "nonce": base64.b64encode(time.time_ns().to_bytes(8, "big")).decode(),
        **parameters,
    }
    headers = {"x-a": "1"}
    if body is not None:
        headers["content-digest"] = content_digest(body)
        components = (*components, "content-digest") if "content-digest" not in components else components
    signed = SignatureInput(tuple(components), {name: value for name, value in given.items() if value is not None})
    headers |= signed_headers(secret, Target(method, "http", "api.example.com", path), headers, signed)
    headers |= {"host": "api.example.com", **(changed or {})}
    return host.request(method, sent_path or path, headers=headers, body=body if sent_body is None else sent_body)


def test_signed_requests_pass_once_and_others_never(either_host: FilterHostFactory) -> None:
    host = either_host(HmacSignature, {"keys": KEYS, "exceptPaths": ["/health"]})
    passed = _send(host, method="POST", body=b'{"amount": 1}', changed={"x-consumer": "root"})
    assert (passed.status, passed.text) == (200, "ok\n")
    assert passed.upstream_request is not None
    assert passed.upstream_request.headers["x-consumer"] == "the-shop"
    assert passed.upstream_request.body == b'{"amount": 1}'
    till = _send(host, secret=b"0" * 32, keyid="till").upstream_request
    assert till is not None
    assert till.headers["x-consumer"] == "till"
    now = int(time.time())
    refusals = [
        ("a signature is needed", host.request(path="/pay")),
        ("the signature is wrong", _send(host, secret=b"1" * 32)),
        ("the signature is wrong", _send(host, sent_path="/pay?a=2")),
        ("the signature is wrong", _send(host, changed={"host": "other.example.com"})),
        ("the signature is wrong", _send(host, components=(*COVERED, "x-a"), changed={"x-a": "2"})),
        ("no signature with a known keyid and alg hmac-sha256", _send(host, keyid="nobody")),
        ("no signature with a known keyid and alg hmac-sha256", _send(host, alg="rsa-pss-sha512")),
        ("not signed: @query", _send(host, components=("@method", "@authority", "@path"))),
        ("the signature is too old", _send(host, created=now - 400)),
        ("the signature is from the future", _send(host, created=now + 400)),
        ("the signature is too old", _send(host, expires=now - 10)),
        ("the signature needs `created`", _send(host, created=None)),
        ("the body does not fit Content-Digest", _send(host, method="POST", body=b"1", sent_body=b"2")),
        ("the body is not signed: cover content-digest", _send(host, method="POST", sent_body=b"2")),
        ("header x-b is signed and is not there", _wrong_header(host)),
    ]
    for reason, answer in refusals:
        assert (answer.status, answer.json()) == (401, {"error": reason})
        assert answer.upstream_request is None
    assert _send(host, components=("@method", "@target-uri")).status == 200
    assert _send(host, components=("@method", "@authority", "@request-target"), alg="hmac-sha256").status == 200
    healthy = host.request(path="/health", headers={"x-consumer": "root", "x_consumer": "root"}).upstream_request
    assert healthy is not None
    assert not {"x-consumer", "x_consumer"} & set(healthy.headers)
    assert host.request(path="/health/..%2fpay").status == 401
    assert _send(host, created=now, nonce="once").status == 200
    again = _send(host, created=now, nonce="once")
    assert (again.status, again.json()) == (401, {"error": "the request was sent before"})
    assert host.metrics["hmac_signature_replayed"] == 1
    for hostile in ("x" * 60_000, 'sig=("@method"', "\udcff", 'sig=("@method");created=1;keyid="shop"'):
        assert host.request(headers={"signature-input": hostile, "signature": "sig=:AA==:"}).status == 401


def _wrong_header(host: FilterHost) -> Answer:
    signed = SignatureInput((*COVERED, "x-b"), {"created": int(time.time()), "keyid": "shop"})
    headers = signed_headers(SECRET, Target("GET", "http", "api.example.com", "/"), {"x-b": "1"}, signed)
    return host.request(headers={**headers, "host": "api.example.com"})


def test_nonces(filter_host: FilterHostFactory) -> None:
    host = filter_host(HmacSignature, {"keys": KEYS, "replay": "nonce"})
    assert _send(host, nonce="a").status == 200
    assert _send(host, nonce="a", path="/other").status == 401
    assert _send(host, nonce="b").status == 200
    assert _send(host, nonce=None).json() == {"error": "a nonce of at most 128 characters is needed"}
    assert _send(host, nonce="x" * 129).status == 401


def test_replays_may_be_allowed(filter_host: FilterHostFactory) -> None:
    host = filter_host(HmacSignature, {"keys": KEYS, "replay": "off"})
    assert [_send(host, nonce="a", created=int(time.time())).status for _ in range(2)] == [200, 200]


def test_a_full_memory_refuses(filter_host: FilterHostFactory) -> None:
    host = filter_host(
        HmacSignature, {"keys": KEYS, "rememberPerSecond": 1, "maxAgeSeconds": 12, "clockSkewSeconds": 0}
    )
    room = host_memory_room(12, 1)
    created = int(time.time())
    answers = [_send(host, nonce=str(number), created=created) for number in range(room + 1)]
    refused = [answer for answer in answers if answer.status != 200]
    assert {answer.status for answer in refused} == {503}
    assert refused[0].headers["retry-after"] == "1"
    assert answers[0].status == 200


def host_memory_room(window: int, per_second: int) -> int:
    """Signatures of one slot that there is room for."""
    return ReplayMemory(Memory(), "", window, per_second).most_in_cell * SHARDS


def test_one_of_several_signatures(filter_host: FilterHostFactory) -> None:
    signed = SignatureInput(COVERED, {"created": int(time.time()), "keyid": "shop"})
    mine = signed_headers(SECRET, Target("GET", "http", "api.example.com", "/"), {}, signed, "mine")
    both = {
        "signature-input": f'other=();keyid="x", {mine["signature-input"]}',
        "signature": f"other=:AA==:, {mine['signature']}",
        "host": "api.example.com",
    }
    assert filter_host(HmacSignature, {"keys": KEYS}).request(headers=both).json() == {
        "error": "more than one signature"
    }
    assert filter_host(HmacSignature, {"keys": KEYS, "label": "mine"}).request(headers=both).status == 200
    assert filter_host(HmacSignature, {"keys": KEYS, "label": "third"}).request(headers=both).status == 401


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"keys": []}, "keys"),
        ({"keys": [KEYS[0], KEYS[0]]}, "of its own"),
        ({"keys": [{"id": "a", "secret": "short"}]}, "base64|shorter"),
        ({"keys": [{"id": "a", "secret": "AAAA"}]}, "shorter"),
        ({"keys": KEYS, "covers": ["@status"]}, "covers"),
        ({"keys": KEYS, "covers": ["X-A"]}, "covers"),
        ({"keys": KEYS, "covers": []}, "covers"),
        ({"keys": KEYS, "consumerHeader": "x y"}, "consumerHeader"),
        ({"keys": KEYS, "exceptPaths": [""]}, "exceptPaths"),
        ({"keys": KEYS, "maxAgeSeconds": 0}, "maxAgeSeconds"),
        ({"keys": KEYS, "clockSkewSeconds": 601}, "clockSkewSeconds"),
    ],
)
def test_bad_configurations(filter_host: FilterHostFactory, config: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        filter_host(HmacSignature, config)
