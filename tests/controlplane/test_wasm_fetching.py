"""Modules from files, web servers and registries: real HTTP, every layout, and what servers should not be able to do to us."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import io
import json
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lateen.controlplane.wasm_fetch import Credentials, Fetcher, FetchLimits
from lateen.controlplane.wasm_url import ModuleError, parse_module_url
from lateen.fetching import http_client
from lateen.mesh.wasmplugin import WasmConfig
from tests.controlplane.modules import module
from tests.fakes.image_registry import INDEX, Registry, Reply, WebServer, serving, tar_gz

MODULE = module("fetched")
DIGEST = hashlib.sha256(MODULE).hexdigest()
WASM = "application/vnd.module.wasm.content.layer.v1+wasm"
TAR = "application/vnd.oci.image.layer.v1.tar+gzip"
ALICE = Credentials("user", "wonderland")


@pytest.fixture
def web() -> Iterator[WebServer]:
    with serving(WebServer) as server:
        yield server


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving(Registry) as server:
        assert isinstance(server, Registry)
        yield server


def in_members(packed: bytes) -> bytes:
    """The same as a gzip file of many members (eStargz has one for each file)."""
    data = gzip.decompress(packed)
    return b"".join(gzip.compress(data[at : at + 300]) for at in range(0, len(data), 300))


def sparse(size: int) -> bytes:
    """A tar of a few kilobytes with a file that begins as a module does and claims to be `size` bytes, nearly all of them a hole."""
    map_ = f"2\n0\n512\n{size}\n0\n".encode()
    held = map_.ljust(512, b"\0") + MODULE[:512].ljust(512, b"\0")
    member = tarfile.TarInfo("GNUSparseFile.0/plugin.wasm")
    member.size = len(held)
    member.pax_headers = {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "plugin.wasm", "GNU.sparse.realsize": str(size),
    }  # fmt: skip
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member, io.BytesIO(held))
    return packed.getvalue()


async def _fetch(
    url: str,
    sha256: str = "",
    credentials: Credentials | None = None,
    *,
    module_bytes: int = 100_000,
    seconds: float = 20,
) -> bytes:
    wanted = parse_module_url(WasmConfig(url=url, sha256=sha256), "default", None)
    async with http_client() as client:
        return await Fetcher(client, FetchLimits(module_bytes, seconds)).fetch(wanted, credentials)


async def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.wasm"
    path.write_bytes(MODULE)
    assert await _fetch(f"file://{path}", DIGEST) == MODULE
    with pytest.raises(ModuleError, match=f"its sha256 is {DIGEST}, not {'0' * 64}"):
        await _fetch(f"file://{path}", "0" * 64)
    with pytest.raises(ModuleError, match="does not exist"):
        await _fetch(f"file://{path}.not")
    with pytest.raises(ModuleError, match="is not a file"):
        await _fetch(f"file://{tmp_path}")
    with pytest.raises(ModuleError, match="larger than 10 bytes"):
        await _fetch(f"file://{path}", module_bytes=10)


async def test_a_web_address(web: WebServer) -> None:
    web.pages["/a.wasm"] = Reply(MODULE)
    web.pages["/moved"] = Reply(status=302, headers={"location": "/a.wasm"})
    assert await _fetch(web.url("/a.wasm")) == MODULE
    assert await _fetch(web.url("/moved"), DIGEST) == MODULE


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(status=404), "the server answers 404"),
        (Reply(MODULE, headers={"content-encoding": "gzip"}), "compressed"),
        (Reply(status=302, headers={"location": "/a.wasm"}), "more than 5 redirects"),
        (Reply(status=302, headers={"location": "file:///etc/passwd"}), "another scheme"),
        (Reply(status=302, headers={"location": "ftp://h/a"}), "another scheme"),
        (Reply(status=302, headers={"location": "http://[::1/a"}), "Invalid URL"),
        (Reply(b"x" * 100_001), "larger than 100000 bytes"),
        (Reply(MODULE + b"\0"), "its sha256 is"),
    ],
)
async def test_answers_that_are_not_taken(web: WebServer, reply: Reply, error: str) -> None:
    web.pages["/a.wasm"] = reply
    with pytest.raises(ModuleError, match=error):
        await _fetch(web.url("/a.wasm"), DIGEST)


async def test_a_server_that_is_slow_or_not_there(web: WebServer) -> None:
    def slow() -> Reply:
        time.sleep(1.5)
        return Reply(MODULE)

    web.pages["/slow"] = slow
    with pytest.raises(ModuleError, match=r"no module within 0\.2 s"):
        await _fetch(web.url("/slow"), seconds=0.2)
    with pytest.raises(ModuleError, match="ConnectError"):
        await _fetch("http://127.0.0.1:1/a.wasm")


async def test_a_server_that_answers_byte_by_byte_does_not_keep_us_busy() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b"1\r\nx\r\n" * 100)
                await writer.drain()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        with pytest.raises(ModuleError, match="pieces that are too small"):
            await _fetch(f"http://{host}:{port}/a.wasm", seconds=60)
        server.close()


# Registries


@pytest.mark.parametrize(
    "layers",
    [
        pytest.param([(WASM, MODULE)], id="one wasm layer"),
        pytest.param([("application/wasm", MODULE)], id="the media type of the CNCF"),
        pytest.param(
            [("application/vnd.module.wasm.config.v1+json", b"{}"), (WASM, MODULE)], id="config and wasm layers"
        ),
        pytest.param([("application/octet-stream", MODULE)], id="of no particular type"),
        pytest.param([(TAR, tar_gz({"plugin.wasm": MODULE}))], id="plugin.wasm in a tar"),
        pytest.param([(TAR, in_members(tar_gz({"plugin.wasm": MODULE})))], id="a gzip of many members"),
        pytest.param([(TAR, tar_gz({"./README": b"x", "other.wasm": MODULE}))], id="another name in a tar"),
        pytest.param(
            [(TAR, tar_gz({"plugin.wasm": module("old")})), (TAR, tar_gz({"plugin.wasm": MODULE}))], id="replaced later"
        ),
        pytest.param([(TAR, tar_gz({"etc/passwd": b"x"})), (TAR, tar_gz({"plugin.wasm": MODULE}))], id="many layers"),
        pytest.param([(TAR, tar_gz({"a.wasm": module("a"), "plugin.wasm": MODULE}))], id="plugin.wasm among others"),
    ],
)
async def test_layouts(registry: Registry, layers: list[tuple[str, bytes]]) -> None:
    digest = registry.push("org/filter:v1", layers)
    name = f"oci://{registry.host}/org/filter"
    assert await _fetch(f"{name}:v1") == MODULE
    assert await _fetch(f"{name}@sha256:{digest}") == MODULE
    assert await _fetch(f"{name}:v1", digest) == MODULE
    assert await _fetch(f"{name}:v1", DIGEST) == MODULE


async def test_an_index_of_platforms(registry: Registry) -> None:
    other = registry.push("org/filter:arm", [(WASM, module("arm"))])
    mine = registry.push("org/filter:wasm", [(WASM, MODULE)])
    entries = [
        f'{{"digest": "sha256:{other}", "platform": {{"architecture": "arm64", "os": "linux"}}}}',
        f'{{"digest": "sha256:{mine}", "platform": {{"architecture": "wasm", "os": "wasip1"}}}}',
    ]
    content = f'{{"schemaVersion": 2, "manifests": [{", ".join(entries)}]}}'.encode()
    digest = registry.manifest("org/filter", "all", content, INDEX)
    assert await _fetch(f"oci://{registry.host}/org/filter:all") == MODULE
    assert await _fetch(f"oci://{registry.host}/org/filter@sha256:{digest}") == MODULE


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        ({"digest": "../../../v2/other/manifests/v1"}, "without a sha256 digest"),
        ({"digest": f"sha512:{'0' * 128}"}, "without a sha256 digest"),
        ({"digest": f"sha256:{'0' * 64}", "platform": "linux"}, "the registry has no"),
        ("sha256", "index is empty"),
    ],
)
async def test_an_index_that_makes_no_sense(registry: Registry, entry: object, error: str) -> None:
    content = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    registry.manifest("org/filter", "all", content, INDEX)
    with pytest.raises(ModuleError, match=error):
        await _fetch(f"oci://{registry.host}/org/filter:all")


@pytest.mark.parametrize(
    ("layers", "error"),
    [
        ([(TAR, tar_gz({"README": b"x"}))], "holds no module"),
        ([(TAR, tar_gz({"a.wasm": module("a"), "b.wasm": MODULE}))], "holds 2 modules, not one"),
        ([(WASM, module("x")), (WASM, MODULE)], "holds 2 modules, not one"),
        ([(TAR, tar_gz({"zero": b"\0" * 200_000}))], "unpacks to more than 100000 bytes"),
        ([(TAR, b"\x1f\x8bnonsense")], "damaged"),
        ([(TAR, tar_gz({"plugin.wasm": MODULE})[:-9])], "cut off"),
        ([(TAR, b"\x28\xb5\x2f\xfdpacked")], "zstd"),
        ([(TAR, sparse(8 * 1024**4))], "holds no module"),
        ([], "no layers"),
    ],
)
async def test_images_without_a_module(registry: Registry, layers: list[tuple[str, bytes]], error: str) -> None:
    registry.push("org/filter:v1", layers)
    with pytest.raises(ModuleError, match=error):
        await _fetch(f"oci://{registry.host}/org/filter:v1")


async def test_a_registry_that_lies(registry: Registry) -> None:
    digest = registry.push("org/filter:v1", [(WASM, MODULE)])
    registry.pages[f"/v2/org/filter/manifests/sha256:{digest}"] = Reply(b'{"layers": []}')
    with pytest.raises(ModuleError, match="its sha256 is"):
        await _fetch(f"oci://{registry.host}/org/filter@sha256:{digest}")
    registry.pages[f"/v2/org/filter/blobs/sha256:{DIGEST}"] = Reply(module("evil"))
    with pytest.raises(ModuleError, match="its sha256 is"):
        await _fetch(f"oci://{registry.host}/org/filter:v1")
    registry.push("org/filter:v2", [(WASM, MODULE)])
    with pytest.raises(ModuleError, match="the image's sha256 is"):
        await _fetch(f"oci://{registry.host}/org/filter:v2", "0" * 64)
    with pytest.raises(ModuleError, match="the registry has no org/filter/manifests/v3"):
        await _fetch(f"oci://{registry.host}/org/filter:v3")


@pytest.mark.parametrize("basic", [False, True])
async def test_passwords(registry: Registry, basic: bool) -> None:
    registry.password, registry.basic = "wonderland", basic
    registry.push("org/filter:v1", [(WASM, MODULE)])
    url = f"oci://{registry.host}/org/filter:v1"
    assert await _fetch(url, credentials=ALICE) == MODULE
    with pytest.raises(ModuleError, match="401"):
        await _fetch(url)
    with pytest.raises(ModuleError, match="401"):
        await _fetch(url, credentials=Credentials("user", "wrong"))


async def test_a_token_goes_to_nobody_else(registry: Registry, web: WebServer) -> None:
    registry.password, registry.blobs_elsewhere = "wonderland", web.host
    registry.push("org/filter:v1", [(WASM, MODULE)])
    web.pages[f"/v2/org/filter/blobs/sha256:{DIGEST}"] = Reply(MODULE)
    assert await _fetch(f"oci://{registry.host}/org/filter:v1", credentials=ALICE) == MODULE
    assert [authorization for _, authorization in web.asked] == [""]
