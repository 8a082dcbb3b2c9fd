"""`lateen up --ahead-of-time`: the second start finds the machine code of the first, and if an Envoy refuses it, the module itself runs."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.controlplane.modules import module
from tests.e2e.client import call
from tests.e2e.running import LOCAL, SMALL, RunningMesh, start, until, wait_for_end

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]
MODULE = module("ahead of time")
MESH = f"""{SMALL}---
apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata: {{name: p, namespace: shop}}
spec: {{selector: {{matchLabels: {{app: web}}}}, url: file://a.wasm}}
"""


@contextlib.contextmanager
def running(directory: Path, home: Path) -> Iterator[RunningMesh]:
    mesh = start(directory, home, "--ahead-of-time")
    processes = mesh.command_lines()
    try:
        yield mesh
    finally:
        assert mesh.stop() == 0
        wait_for_end(processes)


def plugin(mesh: RunningMesh) -> dict[str, Any]:
    (found,) = mesh.api("/v1/plugins")["plugins"]
    return dict(found)


def works(mesh: RunningMesh) -> bool:
    """Without a plugin that runs, the stub answers 503."""
    return call("GET", "http://web.shop:8080/", proxy=mesh.proxy("web")).status == 200


def kept(home: Path) -> Path:
    (found,) = home.rglob("ahead-of-time/*.native")
    return found


def test_made_once_and_given_up_when_an_envoy_refuses_it(tmp_path: Path) -> None:
    directory, home = tmp_path / "shop", tmp_path / "home"
    directory.mkdir()
    home.mkdir()
    (directory / "web.yaml").write_text(MESH)
    (directory / "lateen.yaml").write_text(LOCAL)
    (directory / "a.wasm").write_bytes(MODULE)
    with running(directory, home) as mesh:
        assert (plugin(mesh)["state"], plugin(mesh)["ahead_of_time"]) == ("READY", True)
        assert works(mesh)
        assert "module has machine code now" in mesh.log("controlplane")
    made = kept(home)
    # As if the key had missed that the processor is another one: whole by its checksum, but V8 refuses its head.
    data = bytearray(made.read_bytes())
    data[data.index(MODULE, len(MODULE)) + len(MODULE) + 8] ^= 0x40
    digest, machine, _, suffix = made.name.split(".")
    made.with_name(f"{digest}.{machine}.{hashlib.sha256(data).hexdigest()}.{suffix}").write_bytes(data)
    made.unlink()
    with running(directory, home) as mesh:
        until(lambda: works(mesh) and mesh.settled(), what="the module itself runs")
        assert (plugin(mesh)["state"], plugin(mesh)["ahead_of_time"]) == ("READY", False)
        assert "an envoy has refused it" in mesh.log("controlplane")
    assert not list(home.rglob("ahead-of-time/*.native"))
