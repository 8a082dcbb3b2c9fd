"""pii-redaction."""

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.library.content_types import content_type, readable
from filters.library.pii_json import UnreadableError, field_pattern, redact_json
from filters.library.pii_patterns import FINDERS, IBAN_LENGTHS, Masks, find_all, iban, luhn, redact_text
from filters.library.pii_redaction import PiiRedaction, covered, matches_type
from lateen_filter import ConfigError, Response
from lateen_filter.testing import FilterHostFactory, UpstreamRequest
from tests.fuzzing import examples

ALL = tuple(FINDERS.values())
MASKS = Masks("#", 0)

FOUND = {
    "email": [
        "bob@example.com", "b.o-b+x@mail.example.co.uk", "<bob@example.com>", "mailto:bob@example.com?x", "bob@example.com.", "'bob'@example.com",
        "x" * 64 + "@example.com",
    ],
    "card": [
        "4111111111111111", "4111 1111 1111 1111", "4111-1111-1111-1111", "378282246310005", "3782 822463 10005", "5555555555554444",
        "6011000990139424", "4111 1111 1111 1111 123", "no:4111111111111111.", "(4111111111111111)", "4222222222222",
    ],
    "iban": ["DE89370400440532013000", "DE89 3704 0044 0532 0130 00", "gb82west12345698765432", "NO9386011117947", "MT84MALT011000012345MTLCAST001S", "GB82 WEST 1234 5698 7654 32 is"],
    "ssn": ["123-45-6789", "123 45 6789", "(078-05-1120)"],
}  # fmt: skip
MISSES = [
    "bob@example", "@example.com", "bob@.com", "bob at example.com", "bob@example.c", "a@b",
    "4111111111111112", "4111 1111 1111 111", "41111111111111111111", "4111-1111 1111-1111", "x4111111111111111", "1111111111111117", "3.4111111111111111",
    "411111111111", "41 11 11 11 11 11 11 11", "4111_1111_1111_1111",
    "DE88370400440532013000", "DE8937040044053201300", "DE893704004405320130000", "XX89370400440532013000", "ADE89370400440532013000",
    "000-12-3456", "666-12-3456", "900-12-3456", "123-00-4567", "123-45-0000", "123-456-789", "1123-45-6789", "123-45-67890", "123456789", "123-45 6789",
    "2024-01-01T00:00:00Z", "1700000000000", "41111111-1111-4111-8111-111111111111", "+49 30 1234567", "10.0.0.1", "v1.2.3", "",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in FOUND.items() for text in texts])
def test_what_is_found(kind: str, text: str) -> None:
    assert [span.kind for span in find_all(f"a {text} b", ALL)] == [kind]


@pytest.mark.parametrize("text", MISSES)
def test_near_misses_are_left_alone(text: str) -> None:
    assert redact_text(f"a {text} b", ALL, MASKS) == (f"a {text} b", 0)


def test_check_digits() -> None:
    assert luhn("79927398713")
    assert not any(luhn(f"7992739871{digit}") for digit in "012456789")
    assert iban("FR1420041010050500013M02606")
    assert not iban("FR1420041010050500013M02607")
    assert set(map(len, IBAN_LENGTHS)) == {2}


def test_the_last_digits_can_stay() -> None:
    masks = Masks("*", 4)
    assert redact_text("4111 1111 1111 1111, 123-45-6789, bob@example.com", ALL, masks)[0] == "*1111, *6789, *"


HOSTILE = [
    "@" * 9000,
    "a@" * 9000,
    "a" * 20000 + "@",
    "1" * 20000,
    "4111 " * 4000,
    "DE89 " * 4000,
    "123-45-" * 4000,
    "a.a." * 5000 + "@" + "a." * 5000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts_end(text: str) -> None:
    redact_text(text, ALL, MASKS)


JSON_CASES = [
    ('{"a": "bob@example.com"}', '{"a": "#"}'),
    ('{"a": "x bob@example.com y", "b":1.50,  "c" :[1e400,-0]}', '{"a": "x # y", "b":1.50,  "c" :[1e400,-0]}'),
    ('{"n": 4111111111111111, "m": [-4111111111111111, 5.4111111111111111]}', '{"n": "#", "m": ["#", 5.4111111111111111]}'),
    (r'{"a": "line\nbob@example.com"}', r'{"a": "line\n#"}'),
    (r'{"a": "bob\u0040example.com \u00fc"}', r'{"a": "# \u00fc"}'),
    (r'{"a": "say \"bob@example.com\""}', r'{"a": "say \"#\""}'),
    (r'{"a": "\\", "b": "bob@example.com"}', r'{"a": "\\", "b": "#"}'),
    (r'{"a": "\\\"", "b": "bob@example.com", "c": "\"4111111111111111"}', r'{"a": "\\\"", "b": "#", "c": "\"#"}'),
    ('{"bob@example.com": 1}', '{"#": 1}'),
    ('{"password": "x", "Password" : {"a": ["]", "}"]}, "b": 1}', '{"password": "#", "Password" : "#", "b": 1}'),
    ('{"password": null, "b": {"password": [1, 2]}, "password": true}', '{"password": null, "b": {"password": "#"}, "password": "#"}'),
    (r'{"pass\u0077ord": "x", "a": "password", "b": "\"password\": \"y\""}', r'{"pass\u0077ord": "#", "a": "password", "b": "\"password\": \"y\""}'),
    ('{"passwords": "x", "old_token": "y", "tokenise": 1, "my_token_2": 2}', '{"passwords": "x", "old_token": "#", "tokenise": 1, "my_token_2": 2}'),
    ('{"password": {"password": 1}, "z": "bob@example.com"}', '{"password": "#", "z": "#"}'),
    ('["4111111111111111", 4111111111111111]', '["#", "#"]'),
    ('"bob@example.com"', '"#"'),
    ("4111111111111111", '"#"'),
    ("[]", "[]"),
    ('{"n":4111111111111111.0, "m": -4111111111111111.5e1,"o":1.5e-4111111111111111}', '{"n":"#", "m": "#","o":"#"}'),
    ("[4222222222222.4222222222222]", '["#"]'),
    ('\ufeff{"a": "bob@example.com"}', '\ufeff{"a": "#"}'),
    ('{"password": -1.5e3, "b": 1}', '{"password": "#", "b": 1}'),
    ('{"a": "gr\u00fcn \u2713 bob@example.com"}', '{"a": "gr\u00fcn \u2713 #"}'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), JSON_CASES)
def test_json_is_changed_where_it_must_and_nowhere_else(text: str, expected: str) -> None:
    new, _ = redact_json(text, field_pattern(["password", "*_token"]), ALL, (), MASKS)
    assert new == expected
    json.loads(new.removeprefix("\ufeff"))


NO_JSON = [
    "",
    "{",
    "{'a': 1}",
    '{"a": "bob@example.com"',
    "nul",
    "\ufeff" * 100_000,
    "[" * 100_000,
    '{"a":' * 50_000 + "1" + "}" * 50_000,
    '"\x01"',
]


@pytest.mark.parametrize("text", NO_JSON, ids=range(len(NO_JSON)))
def test_what_is_no_json_is_not_passed_off_as_looked_at(text: str) -> None:
    with pytest.raises(UnreadableError):
        redact_json(text, None, ALL, (), MASKS)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12) | st.sampled_from(["bob@example.com", 'a "b" \\ bob@example.com\n', 4111111111111111, "4111 1111 1111 1111"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["password", "a", "b\\", 'c"', "bob@example.com"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=examples(150), deadline=None)
@given(VALUES, st.booleans(), st.booleans())
def test_the_result_is_what_a_slow_and_simple_redaction_gives(value: object, ascii_only: bool, compact: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, separators=(",", ":") if compact else None)
    new, found = redact_json(text, field_pattern(["password"]), ALL, (), MASKS)
    assert json.loads(new) == json.loads(json.dumps(_simple(value)))
    assert (found == 0) == (new == text)


def _simple(value: object) -> object:
    if isinstance(value, dict):
        return {
            redact_text(str(key), ALL, MASKS)[0]: item
            if item is None and key == "password"
            else "#"
            if key == "password"
            else _simple(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_simple(item) for item in value]
    if isinstance(value, str):
        return redact_text(value, ALL, MASKS)[0]
    if isinstance(value, int) and not isinstance(value, bool):
        return "#" if find_all(str(abs(value)), ALL) else value
    return value


@pytest.mark.parametrize(
    ("header", "kind", "charset", "fits"),
    [
        ("application/json", "application/json", "", True),
        ('Application/JSON; charset="UTF-8"', "application/json", "utf-8", True),
        ("application/problem+json", "application/problem+json", "", True),
        ("application/jsonp", "application/jsonp", "", False),
        ("application/+json", "application/+json", "", True),
        ("text/html", "text/html", "", True),
        ("image/png", "image/png", "", False),
        ("", "", "", False),
    ],
)
def test_content_types(header: str, kind: str, charset: str, fits: bool) -> None:
    assert content_type(header) == (kind, charset)
    assert readable("", charset)
    assert matches_type(kind, ("application/json", "application/*+json", "text/*")) is fits


def test_what_can_be_read_as_it_stands() -> None:
    for encoding, charset in (("", "utf8"), ("identity", "iso-8859-2"), (" Identity ", "windows-1251")):
        assert readable(encoding, charset)
    for encoding, charset in (
        ("gzip", ""),
        ("GZIP", "utf-8"),
        ("identity, br", ""),
        ("", "utf-16"),
        ("", "utf-7"),
        ("", "ibm037"),
    ):
        assert not readable(encoding, charset)


@pytest.mark.parametrize(
    "path", ["/a", "/a/b", "//a", "/x/../a", "/x/%2e%2e/a", "/x%2f..%2fa", "/x/..;/a", "/x\\..\\a"]
)
def test_no_spelling_of_a_path_gets_around_it(path: str) -> None:
    assert covered(path, ("/a",))
    assert not covered("/x/a", ("/a",))


def _upstream(request: UpstreamRequest) -> Response:
    """Answers by path."""
    sent = {
        "/json": ("application/json", b'{"user": {"email": "bob@example.com", "password": "x"}, "price": 1.50}'),
        "/text": ("text/plain; charset=utf-8", "grün: bob@example.com\n".encode()),
        "/latin": ("text/plain; charset=iso-8859-1", "grün: bob@example.com\n".encode("latin-1")),
        "/clean": ("application/json", b'{ "a":1 }'),
        "/image": ("image/png", b"bob@example.com"),
        "/broken": ("application/json", b'{"a": "bob@example.com"'),
        "/deep": ("application/json", b"[" * 50_000 + b"]" * 50_000),
        "/utf16": ("application/json; charset=utf-16", '{"a": "bob@example.com"}'.encode("utf-16")),
        "/large": ("application/json", json.dumps(["bob@example.com"] * 8000).encode()),
        "/lines": ("application/x-ndjson", b'{"a": "bob@example.com"}\n{"b": 1}\n'),
        "/empty": ("application/json", b""),
        "/bytes": ("text/plain", b"\xff\xfe bob@example.com \x80"),
        "/plain": ("text/plain", b' {"password": "x", "a": "bob\\u0040example.com"}'),
        "/brace": ("text/html", b"{not json: bob@example.com"),
        "/odd": ("text/json; charset=utf8", b'{"password": "x"}'),
        "/xml": ("application/xml", b"<a>bob@example.com</a>"),
        "/events": ("text/event-stream", b"data: bob@example.com\n\n"),
    }
    headers = {
        "content-digest": "sha-256=:x:",
        "x-encoding": request.headers.get("accept-encoding", ""),
        "x-range": request.headers.get("range", ""),
    }
    if request.path == "/gzip":
        return Response(
            200,
            gzip.compress(b'{"a": "bob@example.com"}'),
            headers | {"content-type": "application/json", "content-encoding": "gzip"},
        )
    if request.path == "/part":
        return Response(206, b"ob@example.com", headers | {"content-type": "text/plain"})
    kind, body = sent[request.path]
    return Response(200, body, headers | {"content-type": kind})


CONFIG = {"fieldsToMask": ["password"], "mask": "#", "longestBody": 131_072}


def test_bodies_are_redacted_and_what_cannot_be_read_is_refused(either_host: FilterHostFactory) -> None:
    host = either_host(PiiRedaction, CONFIG, upstream=_upstream)
    answer = host.request(path="/json", headers={"accept-encoding": "gzip", "range": "bytes=0-10"})
    assert answer.body == b'{"user": {"email": "#", "password": "#"}, "price": 1.50}'
    assert answer.headers["content-length"] == str(len(answer.body))
    assert (answer.headers["x-encoding"], answer.headers["x-range"]) == ("", "")
    assert "content-digest" not in answer.headers
    for path, body in (
        ("/text", "grün: #\n".encode()),
        ("/latin", "grün: #\n".encode("latin-1")),
        ("/lines", b'{"a": "#"}\n{"b": 1}\n'),
        ("/bytes", b"\xff\xfe # \x80"),
        ("/clean", b'{ "a":1 }'),
        ("/image", b"bob@example.com"),
        ("/empty", b""),
        ("/plain", b' {"password": "#", "a": "#"}'),
        ("/brace", b"{not json: #"),
        ("/odd", b'{"password": "#"}'),
        ("/xml", b"<a>#</a>"),
    ):
        answer = host.request(path=path)
        assert (answer.status, answer.body) == (200, body)
    assert host.request(path="/clean").headers["content-digest"] == "sha-256=:x:"
    for path in ("/broken", "/gzip", "/utf16", "/large", "/deep", "/part", "/events"):
        answer = host.request(path=path)
        assert (answer.status, answer.json()) == (502, {"error": "the response cannot be checked for personal data"}), (
            path
        )
    assert any("not JSON" in line for line in host.logs)
    assert host.metrics["pii_redaction_redacted"] == 11
    assert host.metrics["pii_redaction_refused"] == 7
    assert host.request("HEAD", "/json").status == 200


def test_what_cannot_be_read_can_pass(filter_host: FilterHostFactory) -> None:
    host = filter_host(
        PiiRedaction,
        {
            **CONFIG,
            "tooLarge": "pass",
            "encoded": "pass",
            "malformed": "pass",
            "paths": ["/broken", "/gzip", "/utf16", "/large"],
        },
        upstream=_upstream,
    )
    for path in ("/broken", "/utf16", "/large"):
        assert b"b\0o\0b" in (body := host.request(path=path).body) or b"bob@example.com" in body
    assert host.request(path="/gzip").headers["content-encoding"] == "gzip"
    assert host.metrics["pii_redaction_passed_unread"] == 4
    assert host.request(path="/json", headers={"accept-encoding": "br"}).headers["x-encoding"] == "br"
    assert "bob@example.com" in host.request(path="/json").text


def test_patterns_of_ones_own(filter_host: FilterHostFactory) -> None:
    custom = [{"name": "account", "pattern": "ACC-[0-9]{6}"}, {"name": "quoted", "pattern": "secret.{1,20}"}]
    host = filter_host(
        PiiRedaction,
        {"patterns": ["card"], "customPatterns": custom, "mask": "#"},
        upstream=lambda _: Response(
            200,
            r'{"a": "ACC-123456 bob@example.com", "b": "secret\"x", "ACC-1": "ACC-12345", "c": 4111111111111111}',
            {"content-type": "application/json"},
        ),
    )
    assert host.request().text == r'{"a": "# bob@example.com", "b": "#", "ACC-1": "ACC-12345", "c": "#"}'


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"patterns": []}, "nothing to look for"),
        ({"fieldsToMask": ['a"b']}, "quotes"),
        ({"fieldsToMask": ["*"]}, "field"),
        ({"customPatterns": [{"name": "x", "pattern": "a+"}]}, "bound its repeats"),
        ({"customPatterns": [{"name": "x", "pattern": "(a{1,9}){1,9}b"}]}, "bound its repeats"),
        ({"customPatterns": [{"name": "x", "pattern": ""}]}, "1 to"),
        ({"customPatterns": [{"name": "x", "pattern": "("}]}, "not a regular expression"),
        ({"keepLast": 5}, "keepLast"),
        ({"longestBody": 0}, "longestBody"),
        ({"paths": ["accounts"]}, "paths: 'accounts'"),
        ({"contentTypes": ["application/json; charset=utf-8"]}, "contentTypes"),
        ({"contentTypes": ["Text/HTML"]}, "contentTypes"),
        ({"mask": "a\nb"}, "mask"),
    ],
)
def test_bad_configurations(filter_host: FilterHostFactory, config: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        filter_host(PiiRedaction, config)
