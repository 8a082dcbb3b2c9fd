"""The keeper against a real HTTP server: patience, bounds, independence of the URIs, stale keys while an issuer is away."""

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from lateen.fetching import http_client
from lateen.jwks.fetch import fetch
from lateen.jwks.keeper import KeyKeeper, KeyStatus, KeyUri, Timing
from lateen.jwks.keys import MAX_DOCUMENT_BYTES, JwksError
from tests.fakes.pki import TestAuthority
from tests.jwks.keyserver import Answer, KeyServer, jwk, key_server

FAST = Timing(refresh=30.0, retry_first=0.02, retry_ceiling=0.05, timeout=1.0, unknown_kid_interval=0.0, wait=2.0)


@pytest.fixture
async def server() -> AsyncIterator[KeyServer]:
    async with key_server() as running:
        yield running


@pytest.fixture
async def keeper(server: KeyServer) -> AsyncIterator[KeyKeeper]:
    overrides = {
        "https://overridden.example/jwks": server.url + "/jwks",
        "https://issuer.example/.well-known/openid-configuration": server.url + "/oidc",
        "https://issuer.example/keys": server.url + "/jwks",
    }
    async with http_client() as client:
        made = KeyKeeper(client, overrides=overrides, timing=FAST)
        yield made
        await made.close()


def key_set(*kids: str) -> dict[str, object]:
    return {"keys": [jwk(ed25519.Ed25519PrivateKey.generate(), kid) for kid in kids]}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what is awaited happens behind a socket
            await asyncio.sleep(0.005)


def status_of(keeper: KeyKeeper, uri: KeyUri) -> KeyStatus:
    return next(s for s in keeper.status() if s.uri == str(uri))


async def test_keys_are_fetched_in_the_background_and_status_tells(server: KeyServer, keeper: KeyKeeper) -> None:
    uri = KeyUri(url=server.serve_json("/jwks", key_set("a", "b")))
    keeper.want([(uri, 1.0)])
    assert keeper.keys(uri) is None
    await until(lambda: keeper.keys(uri) is not None)
    status = status_of(keeper, uri)
    assert (status.keys, status.failures, status.error) == (2, 0, "")
    assert status.age is not None


async def test_overrides_replace_the_url_that_is_asked(server: KeyServer, keeper: KeyKeeper) -> None:
    server.serve_json("/jwks", key_set("a"))
    uri = KeyUri(url="https://overridden.example/jwks")
    keeper.want([(uri, 1.0)])
    await until(lambda: keeper.keys(uri) is not None)


async def test_discovery_finds_the_key_set(server: KeyServer, keeper: KeyKeeper) -> None:
    server.serve_json("/oidc", {"issuer": "https://issuer.example", "jwks_uri": "https://issuer.example/keys"})
    server.serve_json("/jwks", key_set("a"))
    uri = KeyUri(issuer="https://issuer.example")
    keeper.want([(uri, 1.0)])
    await until(lambda: keeper.keys(uri) is not None)


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ({"jwks_uri": "https://issuer.example/keys", "issuer": "https://evil.example"}, "of another issuer"),
        ({"issuer": "https://issuer.example"}, "names no jwks_uri"),
        ({"jwks_uri": "http://issuer.example/keys"}, "another scheme"),
        ({"jwks_uri": "file:///etc/passwd"}, "another scheme"),
    ],
)
async def test_discovery_that_cannot_be_trusted(
    server: KeyServer, keeper: KeyKeeper, document: dict[str, str], error: str
) -> None:
    server.serve_json("/oidc", document)
    uri = KeyUri(issuer="https://issuer.example")
    keeper.want([(uri, 1.0)])
    await until(lambda: keeper.error(uri) != "")
    assert error in keeper.error(uri)


async def test_a_failing_issuer_is_retried_and_does_not_hold_up_another(server: KeyServer, keeper: KeyKeeper) -> None:
    hanging = asyncio.Event()

    async def hang() -> Answer:
        await hanging.wait()
        return 200, {}, b""

    server.answers["/slow"] = hang
    slow, late = KeyUri(url=server.url + "/slow"), KeyUri(url=server.url + "/late")
    good = KeyUri(url=server.serve_json("/good", key_set("a")))
    keeper.want([(slow, 5.0), (late, 1.0), (good, 1.0)])
    await until(lambda: keeper.keys(good) is not None and status_of(keeper, late).failures >= 2)
    assert keeper.error(late) == "status 404"
    server.serve_json("/late", key_set("b"))
    await until(lambda: keeper.keys(late) is not None)
    assert keeper.error(late) == ""
    assert keeper.keys(slow) is None
    hanging.set()


async def test_stale_keys_stay_while_a_refresh_fails(server: KeyServer, keeper: KeyKeeper) -> None:
    uri = KeyUri(url=server.serve_json("/jwks", key_set("a")))
    keeper.want([(uri, 1.0)])
    await until(lambda: keeper.keys(uri) is not None)
    held = keeper.keys(uri)
    server.answers["/jwks"] = (500, {}, b"")
    assert await keeper.newer(uri, held) is held
    await until(lambda: status_of(keeper, uri).failures >= 2)
    assert keeper.keys(uri) is held
    server.answers["/jwks"] = (200, {}, b"not json")
    await until(lambda: "not JSON" in keeper.error(uri))
    assert keeper.keys(uri) is held


async def test_an_unknown_key_is_asked_for_once_for_many_requests(server: KeyServer, keeper: KeyKeeper) -> None:
    uri = KeyUri(url=server.serve_json("/jwks", key_set("a")))
    keeper.want([(uri, 1.0)])
    await until(lambda: keeper.keys(uri) is not None)
    held = keeper.keys(uri)
    server.serve_json("/jwks", key_set("b"))
    found = await asyncio.gather(*(keeper.newer(uri, held) for _ in range(50)))
    assert {f.keys[0].kid for f in found if f is not None} == {"b"}
    assert server.asked.count("/jwks") == 2


async def test_refetches_for_unknown_keys_are_bounded_in_time(server: KeyServer) -> None:
    async with http_client() as client:
        keeper = KeyKeeper(client, timing=Timing(unknown_kid_interval=60.0))
        uri = KeyUri(url=server.serve_json("/jwks", key_set("a")))
        keeper.want([(uri, 1.0)])
        await until(lambda: keeper.keys(uri) is not None)
        for _ in range(20):
            await keeper.newer(uri, keeper.keys(uri))
        assert server.asked.count("/jwks") == 1
        await keeper.close()


async def test_only_so_many_requests_wait_for_keys(server: KeyServer) -> None:
    async def hang() -> Answer:
        await asyncio.sleep(60)
        return 200, {}, b""

    server.answers["/hang"] = hang
    async with http_client() as client:
        keeper = KeyKeeper(client, timing=Timing(wait=1.0, max_waiting=2))
        uri = KeyUri(url=server.url + "/hang")
        keeper.want([(uri, 60.0)])
        waiting = [asyncio.create_task(keeper.newer(uri, None)) for _ in range(10)]
        await until(lambda: any(task.done() for task in waiting))
        pending = [task for task in waiting if not task.done()]
        assert len(pending) == 2
        assert await asyncio.gather(*pending) == [None, None]
        await keeper.close()


async def test_an_unchanged_key_set_stays_the_same_object(server: KeyServer, keeper: KeyKeeper) -> None:
    uri = KeyUri(url=server.serve_json("/jwks", key_set("a")))
    keeper.want([(uri, 1.0)])
    await until(lambda: keeper.keys(uri) is not None)
    held = keeper.keys(uri)
    assert await keeper.newer(uri, held) is held
    assert server.asked.count("/jwks") == 2


async def test_uris_that_nobody_wants_are_forgotten(server: KeyServer, keeper: KeyKeeper) -> None:
    uri = KeyUri(url=server.serve_json("/jwks", key_set("a")))
    keeper.want([(uri, 1.0)])
    await until(lambda: keeper.keys(uri) is not None)
    keeper.want([])
    assert keeper.keys(uri) is None
    assert keeper.status() == ()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((200, {}, b" " * (MAX_DOCUMENT_BYTES + 1)), "larger than"),
        ((302, {"location": "file:///etc/passwd"}, b""), "another scheme"),
        ((302, {"location": "https://127.0.0.1:1/"}, b""), "another scheme"),
        ((302, {"location": "/loop"}, b""), "more than 3 redirects"),
        ((503, {}, b""), "status 503"),
        ((200, {"content-encoding": "gzip"}, gzip.compress(b" " * 50_000_000)), "compressed"),
    ],
    ids=["large", "file", "https", "loop", "503", "gzip bomb"],
)
async def test_one_fetch_is_bounded(server: KeyServer, answer: Answer, error: str) -> None:
    server.answers["/loop"] = answer
    async with http_client() as client:
        with pytest.raises(JwksError, match=error):
            await fetch(client, server.url + "/loop", 2.0)


async def test_a_redirect_within_the_scheme_is_followed(server: KeyServer) -> None:
    server.answers["/old"] = (301, {"location": "/new"}, b"")
    server.answers["/new"] = (200, {}, b"here")
    async with http_client() as client:
        assert await fetch(client, server.url + "/old", 2.0) == b"here"


async def test_a_fetch_gives_up_in_time(server: KeyServer) -> None:
    async def hang() -> Answer:
        await asyncio.sleep(60)
        return 200, {}, b""

    server.answers["/hang"] = hang
    async with http_client() as client:
        with pytest.raises(JwksError, match=r"no answer within 0.1 s"):
            await fetch(client, server.url + "/hang", 0.1)


async def test_a_private_authority_can_be_given(tmp_path: Path) -> None:
    authority = TestAuthority()
    pair = authority.issue("", "localhost")
    (tmp_path / "server.pem").write_text(pair.certificate + pair.key)
    (tmp_path / "ca.pem").write_text(authority.root)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "server.pem")
    async with key_server(context) as server:
        server.answers["/jwks"] = (200, {}, b"here")
        async with http_client(str(tmp_path / "ca.pem")) as client:
            assert await fetch(client, server.url + "/jwks", 2.0) == b"here"
        async with http_client() as client:
            with pytest.raises(JwksError, match="certificate verify failed"):
                await fetch(client, server.url + "/jwks", 2.0)


async def test_waiting_for_the_first_answers_ends_with_them_or_in_time(server: KeyServer, keeper: KeyKeeper) -> None:
    held = asyncio.Event()

    async def late() -> Answer:
        await held.wait()
        return 404, {}, b""

    good, bad = KeyUri(url=server.serve_json("/jwks", key_set("a"))), KeyUri(url=server.url + "/none")
    keeper.want([(good, 1.0), (bad, 1.0)])
    await keeper.asked(30.0)
    assert keeper.keys(good) is not None
    assert status_of(keeper, bad).failures > 0
    server.answers["/late"] = late
    keeper.want([(good, 1.0), (KeyUri(url=server.url + "/late"), 20.0)])
    await keeper.asked(0.05)
    assert not held.is_set()
    held.set()
