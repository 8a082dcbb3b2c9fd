"""Header blocks: the same fields as the `hpack` library finds, what gRPC's fields mean, and caches that stay small."""

import contextlib

import pytest
from hpack import Decoder, Encoder, HPACKDecodingError
from hypothesis import given, settings
from hypothesis import strategies as st

from lateen.wire import fields
from lateen.wire.call import RpcError, StatusCode
from lateen.wire.fields import CompressionError, literal
from lateen.wire.frames import ErrorCode, Http2Error
from lateen.wire.headers import Head, HeaderCache, HeaderDecoder
from lateen.wire.limits import Limits
from lateen.wire.refusals import (
    MALFORMED,
    NOT_GRPC,
    NOT_POST,
    TOO_MANY_HEADERS,
    WRONG_ENCODING,
    WRONG_TIMEOUT,
    Refusal,
)
from tests.wire.frames import request_fields

LIMITS = Limits()
PATH = "/a.B/C"


def coded(header_fields: list[tuple[str, str]], *, huffman: bool = True) -> bytes:
    """A block of a client that has given its table up."""
    encoder = Encoder()
    encoder.header_table_size = 0
    encoder.table_size_changes = []
    return bytes(encoder.encode(header_fields, huffman=huffman))


def head_of(*more: tuple[str, str], cache: HeaderCache | None = None) -> Head:
    return (HeaderCache(LIMITS) if cache is None else cache).head(coded(request_fields(PATH, *more)))


def stateless() -> Decoder:
    decoder = Decoder()
    decoder.header_table_size = decoder.max_allowed_table_size = 0
    return decoder


NAMES = st.from_regex(r"[a-z][a-z0-9\-]{0,20}", fullmatch=True) | st.sampled_from(
    ["accept", "user-agent", "x-lateen-target", "traceparent", "cookie", "via", "www-authenticate"]
)
VALUES = st.text(st.characters(codec="latin-1", categories=["L", "N", "P", "Zs"]), max_size=300)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(NAMES, VALUES), max_size=12), st.booleans())
def test_every_value_is_what_was_sent(pairs: list[tuple[str, str]], huffman: bool) -> None:
    pairs = [(name, value) for name, value in pairs if fields.role_of(name.encode()) == 0]
    head = HeaderCache(LIMITS).head(coded([*request_fields(PATH), *pairs], huffman=huffman))
    assert (head.refusal, head.path) == (None, PATH)
    for name in {name for name, _ in pairs}:
        sent = tuple(value for key, value in pairs if key == name)
        assert head.values(name) == sent
        assert head.value(name) == ",".join(sent)
    assert head.values("x-absent") == ()
    assert head.value("x-absent") is None


@settings(deadline=None, max_examples=500)
@given(st.binary(max_size=120))
def test_any_bytes_mean_what_hpack_says_or_nothing(block: bytes) -> None:
    cache = HeaderCache(LIMITS)
    found: list[tuple[str, int]] = []
    try:
        walk = cache.walk(block, found)
    except CompressionError:
        with contextlib.suppress(HPACKDecodingError, IndexError):
            # What hpack takes and we do not: table size updates, and integers of five bytes.
            stateless().decode(block, raw=True)
            assert any(byte & 0xE0 == 0x20 for byte in block) or b"\xff\xff" in block or b"\x80\x80" in block
        return
    try:
        reference = list(stateless().decode(block, raw=True))
    except (HPACKDecodingError, IndexError):
        return  # a value that is badly coded: we did not look at it
    assert walk.count == len(reference)
    assert dict(found) == walk.spots
    for (name, spot), (raw_name, raw_value) in zip(found, reference, strict=True):
        assert name in {bytes(raw_name).decode("latin-1"), ""}
        try:
            text = cache.value(block, spot)
        except RpcError:
            continue
        assert text in {bytes(raw_value).decode("latin-1"), bytes(raw_value).decode("utf-8", "replace")}


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_a_head_or_an_error_of_the_connection(block: bytes, given_up: bool) -> None:
    decoder = HeaderDecoder(HeaderCache(LIMITS), LIMITS)
    if given_up:
        decoder.acknowledged()
        decoder.head(b"\x20" + coded(request_fields(PATH)))
    error: Http2Error | None = None
    try:
        head = decoder.head(block)
        for name in head.names:
            with contextlib.suppress(RpcError):
                head.value(name)
        decoder.are_trailers(block)
    except Http2Error as caught:
        error = caught
    assert error is None or error.code in {ErrorCode.COMPRESSION_ERROR, ErrorCode.ENHANCE_YOUR_CALM}


@pytest.mark.parametrize(
    ("more", "refusal"),
    [
        pytest.param((":method", "GET"), NOT_POST, id="get"),
        pytest.param((":method", ""), MALFORMED, id="no-method"),
        pytest.param((":path", ""), MALFORMED, id="no-path"),
        pytest.param((":scheme", ""), MALFORMED, id="no-scheme"),
        pytest.param((":authority", ""), None, id="no-authority"),
        pytest.param((":status", "200"), MALFORMED, id="pseudo-header-of-a-response"),
        pytest.param(("X-Upper", "a"), MALFORMED, id="upper-case"),
        pytest.param(("x y", "a"), MALFORMED, id="space-in-a-name"),
        pytest.param(("", "a"), MALFORMED, id="no-name"),
        pytest.param(("connection", "close"), MALFORMED, id="connection"),
        pytest.param(("te", "gzip"), MALFORMED, id="te"),
        pytest.param(("te", ""), None, id="no-te"),
        pytest.param(("content-length", "12"), None, id="content-length"),
        pytest.param(("content-length", "-1"), MALFORMED, id="content-length-negative"),
        pytest.param(("content-length", "٣"), MALFORMED, id="content-length-of-other-digits"),
        pytest.param(("content-type", ""), NOT_GRPC, id="no-content-type"),
        pytest.param(("content-type", "application/json"), NOT_GRPC, id="json"),
        pytest.param(("content-type", "application/grpc-web"), NOT_GRPC, id="grpc-web"),
        pytest.param(("content-type", "application/grpc+proto"), None, id="proto"),
        pytest.param(("content-type", "application/grpc;charset=utf-8"), None, id="parameter"),
        pytest.param(("grpc-encoding", "identity"), None, id="identity"),
        pytest.param(("grpc-encoding", "gzip"), WRONG_ENCODING, id="gzip"),
        pytest.param(("grpc-timeout", "1S"), None, id="timeout"),
        pytest.param(("grpc-timeout", "123456789S"), WRONG_TIMEOUT, id="timeout-of-nine-digits"),
        pytest.param(("grpc-timeout", "1s"), WRONG_TIMEOUT, id="timeout-unit"),
        pytest.param(("grpc-timeout", "-1S"), WRONG_TIMEOUT, id="timeout-negative"),
    ],
)
def test_what_is_refused(more: tuple[str, str], refusal: Refusal | None) -> None:
    assert head_of(more).refusal == refusal


@pytest.mark.parametrize(
    ("text", "seconds"), [("2H", 7200), ("3M", 180), ("4S", 4), ("5m", 0.005), ("6u", 6e-6), ("7n", 7e-9)]
)
def test_timeouts(text: str, seconds: float) -> None:
    assert head_of(("grpc-timeout", text)).timeout == pytest.approx(seconds)


@pytest.mark.parametrize("name", [":path", ":method", "te", "content-type", "grpc-timeout"])
def test_fields_that_must_not_come_twice(name: str) -> None:
    twice = [*request_fields(PATH, ("grpc-timeout", "1S")), (name, "trailers")]
    twice.sort(key=lambda field: not field[0].startswith(":"))
    assert HeaderCache(LIMITS).head(coded(twice)).refusal == MALFORMED


def test_pseudo_headers_come_first() -> None:
    assert HeaderCache(LIMITS).head(coded([("x-a", "1"), *request_fields(PATH)])).refusal == MALFORMED


def test_too_many_fields() -> None:
    cache = HeaderCache(Limits(header_count=10))
    assert head_of(("x-1", ""), ("x-2", ""), ("x-3", ""), ("x-4", ""), cache=cache).refusal is None
    assert head_of(*((f"x-{i}", "") for i in range(5)), cache=cache).refusal == TOO_MANY_HEADERS


def test_what_must_be_decoded_is_short() -> None:
    assert head_of((":path", "/" + "a" * 400)).refusal is None
    assert head_of((":path", "/" + "a" * 1000)).refusal == TOO_MANY_HEADERS
    assert head_of((":authority", "a" * 400)).refusal is None


def test_a_block_of_one_byte_fields_is_not_read_to_its_end() -> None:
    every: list[tuple[str, int]] = []
    walk = HeaderCache(Limits(header_count=100)).walk(b"\x90" * 16_000 + b"\x00", every)
    assert walk.count == len(every) == 101


def test_a_value_is_decoded_when_it_is_asked_for() -> None:
    """Padding of zeros is an error (RFC 7541, section 5.2): nobody sees it who does not ask."""
    block = coded(request_fields(PATH)) + b"\x00\x03x-a" + b"\x82\x18\xc0" + b"\x00\x03x-b\x01b"
    head = HeaderCache(LIMITS).head(block)
    assert head.value("x-b") == "b"
    with pytest.raises(CompressionError):
        head.value("x-a")


def test_control_characters_are_not_handed_out() -> None:
    head = HeaderCache(LIMITS).head(coded(request_fields(PATH)) + literal(b"x-a", b"one\r\ntwo"))
    with pytest.raises(RpcError) as caught:
        head.value("x-a")
    assert caught.value.code == StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"\x80", id="index-0"),
        pytest.param(b"\xbe", id="index-62"),
        pytest.param(b"\xff\x80\x01", id="index-of-two-bytes"),
        pytest.param(b"\x7f\x00\x01a", id="name-index-63"),
        pytest.param(b"\x0f\x80\x01\x01a", id="name-index-of-three-bytes"),
        pytest.param(b"\x0f\x2f\x01a", id="name-index-62"),
        pytest.param(b"\x82\x20", id="size-update-after-a-field"),
        pytest.param(b"\x3f\xe1\x1f", id="size-update-to-4096"),
        pytest.param(b"\x00\x05ab", id="name-cut-short"),
        pytest.param(b"\x00\x01a\x05b", id="value-cut-short"),
        pytest.param(b"\x00\x01a", id="no-value"),
        pytest.param(b"\x00\x01a\x7f\xff\xff\xff\xff\xff\x01", id="length-of-too-many-bytes"),
    ],
)
def test_blocks_that_end_the_connection(block: bytes) -> None:
    decoder = HeaderDecoder(HeaderCache(LIMITS), LIMITS)
    decoder.acknowledged()
    decoder.head(b"\x20" + coded(request_fields(PATH)))
    with pytest.raises(CompressionError):
        decoder.head(block)


def test_a_client_keeps_its_table_until_it_knows_our_settings() -> None:
    decoder = HeaderDecoder(HeaderCache(LIMITS), LIMITS)
    encoder = Encoder()
    for number in (1, 2):
        head = decoder.head(encoder.encode(request_fields(PATH, ("x-a", "same"), ("x-b", str(number)))))
        assert (head.value("x-a"), head.value("x-b")) == ("same", str(number))
    decoder.acknowledged()
    encoder.header_table_size = 0
    assert decoder.head(encoder.encode(request_fields(PATH, ("x-a", "again")))).value("x-a") == "again"
    assert decoder.head(coded(request_fields(PATH, ("x-a", "and again")))).value("x-a") == "and again"


def test_a_client_must_then_give_it_up() -> None:
    decoder = HeaderDecoder(HeaderCache(LIMITS), LIMITS)
    decoder.acknowledged()
    with pytest.raises(CompressionError):
        decoder.head(Encoder().encode(request_fields(PATH)))


def test_table_size_updates_are_at_most_two_in_a_block() -> None:
    fields_of_a_request = coded(request_fields(PATH))
    for updates in (b"\x20", b"\x20\x3f\xe1\x1f", b"\x3f\x00\x30"):
        decoder = HeaderDecoder(HeaderCache(LIMITS), LIMITS)
        assert decoder.head(updates + fields_of_a_request).path == PATH
        with pytest.raises(CompressionError, match="more than two"):
            decoder.head(b"\x20" + updates + updates + fields_of_a_request)


def test_a_client_cannot_keep_its_table_by_never_acknowledging() -> None:
    """Blocks that need the table are dear: a round trip's worth is decoded."""
    decoder = HeaderDecoder(HeaderCache(LIMITS), LIMITS)
    block = coded(request_fields(PATH, ("x-a", "b" * 10_000)), huffman=False)
    taken = 256 * 1024 // len(block)
    for _ in range(taken):
        decoder.head(block)
    with pytest.raises(Http2Error) as caught:
        decoder.head(block)
    assert caught.value.code == ErrorCode.ENHANCE_YOUR_CALM


def test_a_table_can_be_allowed() -> None:
    limits = Limits(header_table_bytes=4096)
    decoder = HeaderDecoder(HeaderCache(limits), limits)
    decoder.acknowledged()
    encoder = Encoder()
    first, second = (encoder.encode(request_fields(PATH, ("x-a", "same"))) for _ in range(2))
    assert len(second) < len(first)
    assert [decoder.head(block).value("x-a") for block in (first, second)] == ["same", "same"]


def test_a_list_that_grows_out_of_a_table_ends_the_connection() -> None:
    decoder = HeaderDecoder(HeaderCache(LIMITS), LIMITS)
    encoder = Encoder()
    decoder.head(encoder.encode([*request_fields(PATH), ("x-bomb", "b" * 3000)]))
    with pytest.raises(Http2Error) as caught:
        decoder.head(b"\xbe" * 100)
    assert caught.value.code == ErrorCode.ENHANCE_YOUR_CALM


@settings(deadline=None, max_examples=100)
@given(st.lists(st.lists(st.integers(0, 14), max_size=8), min_size=1, max_size=40), st.integers(0, 3))
def test_what_was_seen_before_changes_nothing(blocks: list[list[int]], entries: int) -> None:
    """Blocks that begin alike, are alike or end alike are found to be what they are without any cache."""
    choice = [
        *[(f"x-{i}", f"value {i}") for i in range(6)],
        ("x-0", "another value"),
        ("grpc-timeout", "1S"),
        ("grpc-timeout", "2S"),
        ("te", "trailers"),
        ("grpc-encoding", "gzip"),
        (":authority", "late"),
        ("connection", "close"),
        ("content-length", "7"),
        ("x-long", "y" * 90),
    ]
    cache = HeaderCache(Limits(header_count=10), entries=2**entries)
    for numbers in blocks:
        block = coded([*request_fields(PATH), *(choice[number] for number in numbers)])
        seen, fresh = cache.head(block), HeaderCache(Limits(header_count=10)).head(block)
        assert (seen.refusal, seen.path, seen.timeout) == (fresh.refusal, fresh.path, fresh.timeout)
        assert (seen.content_length, seen.names) == (fresh.content_length, fresh.names)
        assert [seen.values(name) for name in seen.names] == [fresh.values(name) for name in seen.names]


def test_caches_stay_small() -> None:
    cache = HeaderCache(LIMITS, entries=16)
    for number in range(500):
        head = head_of((f"x-{number}", f"value {number}"), ("grpc-timeout", f"{number}S"), cache=cache)
        assert head.value(f"x-{number}") == f"value {number}"
    assert len(cache) <= 5 * 16


def test_large_blocks_and_values_are_not_kept() -> None:
    cache = HeaderCache(LIMITS)
    head_of(("x-a", "a"), cache=cache)
    before = len(cache)
    assert head_of(("x-a", "b" * 5000), cache=cache).value("x-a") == "b" * 5000
    assert len(cache) == before


def test_the_same_bytes_are_the_same_head() -> None:
    cache = HeaderCache(LIMITS)
    assert head_of(("x-a", "1"), cache=cache) is head_of(("x-a", "1"), cache=cache)


@pytest.mark.parametrize(
    ("pairs", "good"),
    [
        ([("x-checksum", "1")], True),
        ([], True),
        ([(":path", "/")], False),
        ([("x-a", "1"), (":status", "200")], False),
        ([("Connection", "close")], False),
        ([("connection", "close")], False),
    ],
)
def test_trailers(pairs: list[tuple[str, str]], good: bool) -> None:
    assert HeaderCache(LIMITS).are_trailers(coded(pairs)) is good


@settings(deadline=None)
@given(st.binary(max_size=400), st.binary(max_size=400))
def test_literals_are_what_hpack_reads(name: bytes, value: bytes) -> None:
    assert [tuple(field) for field in Decoder().decode(literal(name, value), raw=True)] == [(name, value)]
