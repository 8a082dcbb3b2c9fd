"""`lateen filter publish`: to a directory, an OCI layout and registries."""

import base64
import gzip
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest

from lateen.cli import filteroci
from lateen.cli.exits import CommandError, Exit
from lateen.cli.filterbuild import Options
from lateen.cli.filtercredentials import Credentials, find_credentials
from lateen.cli.filterpublish import publish
from tests.fakes.registry import FakeRegistry

MODULE = b"\0asm\1\0\0\0"
OPTIONS = Options(None, 128, 100)
REAL = shutil.which("docker-registry")


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "gate.wasm"
    path.write_bytes(MODULE)
    return path


@pytest.fixture(autouse=True)
def _no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


@pytest.fixture(params=["fake", *(["docker-registry"] if REAL else [])])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """HOST:PORT of a registry that wants no credentials: ours, and Debian's where it is installed."""
    if request.param == "fake":
        fake = FakeRegistry()
        yield fake.host
        fake.close()
        return
    config = tmp_path / "registry.yml"
    storage = {"filesystem": {"rootdirectory": str(tmp_path / "blobs")}}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{taken.getsockname()[1]}"
    config.write_text(json.dumps({"version": 0.1, "storage": storage, "http": {"addr": host}}))
    process = subprocess.Popen([str(REAL), "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                httpx.get(f"http://{host}/v2/")
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield host
    finally:
        process.kill()
        process.wait()


def unpacked(layer: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(layer))) as tar:
        return {item.name: tar.extractfile(item).read() for item in tar.getmembers()}  # type: ignore[union-attr]  # all are files


def test_a_directory(module: Path, tmp_path: Path) -> None:
    said = publish(str(module), str(tmp_path / "new" / "place"), OPTIONS, plain_http=False)
    place = tmp_path / "new" / "place" / "gate.wasm"
    assert said == f"url: {place.as_uri()}\nsha256: {hashlib.sha256(MODULE).hexdigest()}"
    assert place.read_bytes() == MODULE


def test_a_layout_holds_several_tags_and_replaces_one(module: Path, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    for tag in ("1.0", "2.0", "1.0"):
        said = publish(str(module), f"oci-dir://{layout}:{tag}", OPTIONS, plain_http=False)
    entries = json.loads((layout / "index.json").read_text())["manifests"]
    assert [entry["annotations"][filteroci.REF] for entry in entries] == ["2.0", "1.0"]
    assert said.endswith(entries[1]["digest"].removeprefix("sha256:"))
    for blob in (layout / "blobs" / "sha256").iterdir():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    assert json.loads((layout / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}


def test_the_image_is_one_layer_with_plugin_wasm_and_always_the_same() -> None:
    image = filteroci.image(MODULE)
    assert image == filteroci.image(MODULE)
    manifest = json.loads(image.blobs[image.manifest])
    assert manifest["annotations"] == {"module.wasm.image/variant": "compat"}
    (layer,) = manifest["layers"]
    assert unpacked(image.blobs[layer["digest"]]) == {"plugin.wasm": MODULE}
    assert len(image.blobs[layer["digest"]]) == layer["size"]


def test_a_registry_has_what_was_pushed(module: Path, registry: str) -> None:
    target = f"oci://{registry}/filters/gate:1.0"
    said = publish(str(module), target, OPTIONS, plain_http=True)
    assert said == publish(str(module), target, OPTIONS, plain_http=True)  # what is there is not sent again
    image = filteroci.image(MODULE)
    assert said == f"url: {target}\nsha256: {image.manifest.removeprefix('sha256:')}"
    if registry in said and REAL is not None:
        answer = httpx.get(f"http://{registry}/v2/filters/gate/manifests/1.0", headers={"accept": filteroci.MANIFEST})
        if answer.status_code == httpx.codes.OK:  # the fake only takes
            assert answer.content == image.blobs[image.manifest]


def test_what_is_there_is_not_sent_again(module: Path) -> None:
    fake = FakeRegistry()
    try:
        publish(str(module), f"oci://{fake.host}/gate:1", OPTIONS, plain_http=True)
        first, fake.log[:] = list(fake.log), []
        publish(str(module), f"oci://{fake.host}/gate:2", OPTIONS, plain_http=True)
    finally:
        fake.close()
    assert sum(line.startswith("POST") for line in first) == 2
    assert [line.split()[0] for line in fake.log] == ["HEAD", "HEAD", "PUT"]
    assert set(fake.manifests) == {("gate", "1"), ("gate", "2")}


@pytest.mark.parametrize("challenge", ["bearer", "basic"])
def test_credentials_of_docker_login(module: Path, tmp_path: Path, challenge: str) -> None:
    fake = FakeRegistry(("me", "se:cret"), challenge)
    try:
        with pytest.raises(CommandError) as refused:
            publish(str(module), f"oci://{fake.host}/gate:1", OPTIONS, plain_http=True)
        (tmp_path / "docker").mkdir()
        auth = base64.b64encode(b"me:se:cret").decode()
        (tmp_path / "docker" / "config.json").write_text(
            json.dumps({"auths": {f"http://{fake.host}/v1/": {"auth": auth}}})
        )
        publish(str(module), f"oci://{fake.host}/gate:1", OPTIONS, plain_http=True)
    finally:
        fake.close()
    assert (refused.value.code, refused.value.hint) == (Exit.INVALID, f"docker login {fake.host}")
    assert set(fake.manifests) == {("gate", "1")}


def test_credentials_of_a_helper(tmp_path: Path) -> None:
    helper = tmp_path / "docker-credential-test"
    helper.write_text('#!/bin/sh\nread server\necho "{\\"Username\\": \\"$server\\", \\"Secret\\": \\"s\\"}"\n')
    helper.chmod(0o755)
    (tmp_path / "config.json").write_text(
        json.dumps({"credHelpers": {"one.example": "test"}, "auths": {"two.example": {}}})
    )
    environ = {"DOCKER_CONFIG": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert find_credentials("one.example", environ) == Credentials("one.example", "s")
    assert find_credentials("two.example", environ) is None
    assert find_credentials("three.example", environ) is None


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ("{", "Expecting"),
        ('{"auths": {"r.example": {"auth": "?"}}}', "auth is no base64"),
        ('{"credsStore": "../x"}', "not the name"),
    ],
)
def test_a_broken_docker_configuration_is_named(tmp_path: Path, config: str, problem: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(CommandError, match=problem) as caught:
        find_credentials("r.example", {"DOCKER_CONFIG": str(tmp_path)})
    assert caught.value.code is Exit.INVALID


def test_credentials_are_not_printed() -> None:
    assert "secret" not in repr(Credentials("me", "secret"))


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("oci://Upper/Case", Exit.USAGE),
        ("oci://host", Exit.USAGE),
        ("oci://host/x:bad tag", Exit.USAGE),
        ("ftp://host/x", Exit.USAGE),
        ("oci-dir://:1.0", Exit.USAGE),
        ("oci-dir://layout:a tag", Exit.USAGE),
        ("oci://127.0.0.1:1/x", Exit.UNREACHABLE),
    ],
)
def test_bad_targets(module: Path, target: str, code: Exit) -> None:
    with pytest.raises(CommandError) as caught:
        publish(str(module), target, OPTIONS, plain_http=True)
    assert caught.value.code is code


@pytest.mark.parametrize(
    ("body", "kind", "said", "hint"),
    [
        (b"<!DOCTYPE html>\n" + b"<p>" * 1000, "text/html", "500 (<!DOCTYPE html>)", "is this a registry?"),
        (b"x" * 1000 + b"\x1b[2J", "text/plain", f"500 ({'x' * 200})", ""),
        (b"", "text/plain", "500", ""),
        (
            b'{\n"errors": [{"code": "DENIED", "message": "no\\u001b\\nroom"}]}',
            "application/json",
            "500 (DENIED no  room)",
            "",
        ),
    ],
    ids=["page", "text", "nothing", "errors"],
)
def test_what_a_server_says_is_shown_in_one_line(module: Path, body: bytes, kind: str, said: str, hint: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(404)

        def do_POST(self) -> None:
            self.send_response(500)
            self.send_header("content-type", kind)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        host = f"127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            with pytest.raises(CommandError) as caught:
                publish(str(module), f"oci://{host}/gate:1", OPTIONS, plain_http=True)
        finally:
            server.shutdown()
            thread.join()
    assert caught.value.code is Exit.INVALID
    assert caught.value.message == f"{host} answers {said} to POST"
    assert caught.value.hint.startswith(hint)
    assert bool(caught.value.hint) is bool(hint)


def test_what_is_no_module_is_not_published(tmp_path: Path) -> None:
    (tmp_path / "x.wasm").write_text("no")
    for name, problem in (("x.wasm", "not a WebAssembly module"), ("y.wasm", "no such file or directory")):
        with pytest.raises(CommandError, match=problem) as caught:
            publish(str(tmp_path / name), str(tmp_path / "out"), OPTIONS, plain_http=False)
        assert caught.value.code is Exit.INVALID


def test_the_command_prints_what_a_wasmplugin_needs(module: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lateen.cli.main", "filter", "publish", str(module), str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (result.returncode, result.stdout.splitlines()[1]) == (0, f"sha256: {hashlib.sha256(MODULE).hexdigest()}")
    assert "was not built by lateen filter" in result.stderr
