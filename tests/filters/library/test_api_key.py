"""api-key."""

import hashlib

import pytest

from filters.library.api_key import ApiKey, Key, consumer_of, known_keys
from filters.library.credentials import spellings, without_cookie, without_parameter
from filters.library.paths import excepts_path, matches_path
from lateen_filter import ConfigError
from lateen_filter.testing import FilterHostFactory


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


KEYS = [
    {"consumer": "alice", "sha256": digest("key-of-alice")},
    {"consumer": "bob", "sha256": digest("key-of-bob").upper()},
    {"consumer": "bob", "sha256": digest("new-key-of-bob")},
    {"consumer": "past", "sha256": digest("old-key"), "notAfter": "2020-01-01T00:00:00Z"},
]


@pytest.mark.parametrize(
    ("key", "consumer"),
    [
        ("key-of-alice", "alice"),
        ("key-of-bob", "bob"),
        ("new-key-of-bob", "bob"),
        ("key-of-alice ", None),
        ("key-of-alic", None),
        ("KEY-OF-ALICE", None),
        (digest("key-of-alice"), None),
        ("old-key", None),
        ("", None),
        ("x" * 65536, None),
        ("\udcff\udcfe", None),
    ],
)
def test_whose_key_it_is(key: str, consumer: str | None) -> None:
    keys = known_keys(
        [
            Key(consumer="alice", sha256=digest("key-of-alice")),
            *(Key(consumer="bob", sha256=digest(text)) for text in ("key-of-bob", "new-key-of-bob")),
            Key(consumer="past", sha256=digest("old-key"), not_after="2020-01-01T00:00:00Z"),
        ]
    )
    assert consumer_of(key, keys, 1.7e9) == consumer


def test_a_key_ends_at_its_time() -> None:
    keys = known_keys([Key(consumer="a", sha256=digest("k"), not_after="1970-01-01T01:00:10+01:00")])
    assert consumer_of("k", keys, 9.9) == "a"
    assert consumer_of("k", keys, 10.0) is None


@pytest.mark.parametrize(
    ("target", "left", "values"),
    [
        ("/x", "/x", []),
        ("/x?", "/x?", []),
        ("/x?a=1", "/x?a=1", []),
        ("/x?key=1", "/x", ["1"]),
        ("/x?a=1&key=2&b=%203", "/x?a=1&b=%203", ["2"]),
        ("/x?k%65y=%31&key=2", "/x", ["1", "2"]),
        ("/x?key", "/x", [""]),
        ("/x?keys=1&Key=2", "/x?keys=1&Key=2", []),
        ("/key=1", "/key=1", []),
    ],
)
def test_parameters_are_taken_out(target: str, left: str, values: list[str]) -> None:
    assert without_parameter(target, "key") == (left, values)


@pytest.mark.parametrize(
    ("header", "left", "values"),
    [
        ("key=1", "", ["1"]),
        ("a=1; key=2; b=3", "a=1; b=3", ["2"]),
        ('key="1";key=2', "", ["1", "2"]),
        ("keys=1; xkey=2", "keys=1; xkey=2", []),
        ("", "", []),
    ],
)
def test_cookies_are_taken_out(header: str, left: str, values: list[str]) -> None:
    assert without_cookie(header, "key") == (left, values)


@pytest.mark.parametrize(
    ("path", "excepted"),
    [
        ("/health", True),
        ("/health/live;v=1", True),
        ("/health/a.b/..c", True),
        ("/health/%41", True),
        ("/healthy", False),
        ("/health/../admin", False),
        ("/health/..;/admin", False),
        ("/health/..%2fadmin", False),
        ("/health/%2E%2e/admin", False),
        ("/health/%252e%252e/admin", False),
        ("/health/..%5Cadmin", False),
        ("/health\\..\\admin", False),
        ("/health/..\\admin", False),
        ("/health//admin", False),
        ("/health/.", False),
        ("/health/%00", False),
    ],
)
def test_what_servers_may_read_in_another_way_is_not_excepted(path: str, excepted: bool) -> None:
    assert excepts_path(path, ["/health"]) is excepted
    assert not excepts_path(path, [])


def test_spellings_of_a_header() -> None:
    assert spellings("X-Consumer") == ("x-consumer", "x_consumer")
    assert set(spellings("a-b-c")) == {"a-b-c", "a-b_c", "a_b-c", "a_b_c"}
    assert spellings("user") == ("user",)


@pytest.mark.parametrize(
    ("path", "fits"),
    [
        ("/api", True),
        ("/api/", True),
        ("/api/x", True),
        ("/apix", False),
        ("/", False),
        ("/API", False),
        ("/pre", True),
        ("/prefix", True),
        ("/pr", False),
    ],
)
def test_paths_are_whole_segments(path: str, fits: bool) -> None:
    assert matches_path(path, ["/api", "/pre*"]) is fits
    assert matches_path(path, ["/"])


def test_keys_and_consumers(either_host: FilterHostFactory) -> None:
    host = either_host(ApiKey, {"keys": KEYS, "query": "key", "cookie": "key", "exceptPaths": ["/health"]})
    answer = host.request(path="/a?b=1", headers={"x-api-key": "key-of-alice", "x-consumer": "root"})
    assert (answer.status, answer.text) == (200, "ok\n")
    assert answer.upstream_request is not None
    assert answer.upstream_request.headers["x-consumer"] == "alice"
    assert "x-api-key" not in answer.upstream_request.headers
    query = host.request(path="/a?key=key-of-bob&b=%201").upstream_request
    assert query is not None
    assert (query.path, query.headers["x-consumer"]) == ("/a?b=%201", "bob")
    cookie = host.request(headers={"cookie": "a=1; key=new-key-of-bob"}).upstream_request
    assert cookie is not None
    assert (cookie.headers["cookie"], cookie.headers["x-consumer"]) == ("a=1", "bob")
    refused = host.request(headers={"x-api-key": "wrong"})
    assert (refused.status, refused.json(), refused.upstream_request) == (
        401,
        {"error": "the API key is not valid"},
        None,
    )
    assert refused.headers["www-authenticate"] == 'ApiKey realm="api"'
    assert refused.headers["cache-control"] == "no-store"
    forged = [("x-consumer", "root"), ("X_Consumer", "root"), ("x-consumer", "admin"), ("x-api-key", "key-of-alice")]
    healthy = host.request(path="/health?key=x&a=1", headers=forged).upstream_request
    assert healthy is not None
    assert not {"x-consumer", "x_consumer", "x-api-key"} & set(healthy.headers)
    assert healthy.path == "/health?a=1"
    for headers, path in (
        ([], "/health/..%2fadmin"),
        ([], "/"),
        ([("x-api-key", "old-key")], "/"),
        ([("x-api-key", "")], "/"),
        ([("x-api-key", "x" * 60_000)], "/"),
        ([("x-api-key", "grün\udcff")], "/"),
        ([("x-api-key", "key-of-alice"), ("x-api-key", "key-of-alice")], "/"),
        ([("x-api-key", "key-of-alice")], "/?key=key-of-alice"),
        ([("x-api-key", "key-of-alice")], "/?key="),
        ([("authorization", "key-of-alice")], "/"),
    ):
        assert host.request(path=path, headers=headers).status == 401, (headers, path)
    assert host.metrics["api_key_refused"] == 11


def test_a_scheme(filter_host: FilterHostFactory) -> None:
    host = filter_host(ApiKey, {"keys": KEYS, "header": "authorization", "scheme": "Bearer", "allowMissing": True})
    found = host.request(headers={"authorization": "bearer key-of-alice"}).upstream_request
    assert found is not None
    assert found.headers["x-consumer"] == "alice"
    assert "authorization" not in found.headers
    other = host.request(headers={"authorization": "Basic key-of-alice", "x-consumer": "root"}).upstream_request
    assert other is not None
    assert "x-consumer" not in other.headers
    assert other.headers["authorization"] == "Basic key-of-alice"
    assert host.request(headers={"authorization": "Bearer wrong"}).status == 401
    assert host.request(headers={"authorization": "Bearer"}).status == 401


def test_the_key_goes_on_if_that_is_wanted(filter_host: FilterHostFactory) -> None:
    found = filter_host(ApiKey, {"keys": KEYS, "forwardKey": True}).request(headers={"x-api-key": "key-of-bob"})
    assert found.upstream_request is not None
    assert found.upstream_request.headers["x-api-key"] == "key-of-bob"


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"keys": []}, "0 keys"),
        ({"keys": [{"consumer": "a", "sha256": "12"}]}, "64 hexadecimal"),
        ({"keys": [{"consumer": "a", "sha256": "g" * 64}]}, "64 hexadecimal"),
        ({"keys": [{"consumer": "a\n", "sha256": "0" * 64}]}, "printable"),
        ({"keys": [KEYS[0], KEYS[0]]}, "the same sha256"),
        ({"keys": [{"consumer": "a", "sha256": "0" * 64, "notAfter": "tomorrow"}]}, "no time"),
        ({"keys": [{"consumer": "a", "sha256": "0" * 64, "notAfter": "2026-01-01T00:00:00"}]}, "time zone"),
        ({"keys": KEYS, "header": ""}, "where is the key"),
        ({"keys": KEYS, "consumerHeader": "X-Api-Key"}, "of its own"),
        ({"keys": KEYS, "realm": 'a"b'}, "realm"),
        ({"keys": KEYS, "realm": "a\\"}, "realm"),
        ({"keys": KEYS, "scheme": "Bearer\r\nx: y"}, "scheme"),
        ({"keys": KEYS, "cookie": "a b"}, "cookie"),
        ({"keys": KEYS, "header": "x y"}, "header: 'x y'"),
        ({"keys": KEYS, "consumerHeader": "host"}, "consumerHeader: host"),
        ({"keys": KEYS, "consumerHeader": "x_user"}, "consumerHeader: x_user"),
        ({"keys": KEYS, "consumerHeader": "a-b-c-d-e-f"}, "consumerHeader: a-b-c-d-e-f"),
        ({"keys": KEYS, "exceptPaths": ["health"]}, "exceptPaths: 'health'"),
    ],
)
def test_bad_configurations(filter_host: FilterHostFactory, config: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        filter_host(ApiKey, config)
