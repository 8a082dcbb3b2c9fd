"""What `get` and `proxy-status` say of plugins."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lateen.cli.describe import described, render
from lateen.cli.meshview import find_workload, view_of_files
from lateen.cli.output import Format
from lateen.cli.pluginsof import Applied, lines, states_of, states_of_files
from lateen.cli.proxystatus import render_status
from lateen.cli.resources import render_items
from lateen.cli.routing import explain
from lateen.cli.routing import render as render_route
from lateen.mesh.view import MeshView

DIGEST = "0123456789abcdef" * 4


def _item(name: str, **status: object) -> dict[str, Any]:
    resource = {
        "apiVersion": "extensions.istio.io/v1alpha1",
        "kind": "WasmPlugin",
        "metadata": {"name": name, "namespace": "shop"},
    }
    state = {
        "resource": f"WasmPlugin/shop/{name}",
        "state": "READY",
        "serving": True,
        "module": DIGEST,
        "filter": "waf",
    }
    return {"resource": resource, "origin": "file", "status": state | {"reason": ""} | status}


ITEMS = [
    _item("good"),
    _item("older", state="FAILED", reason="message is required"),
    _item("none", state="FAILED", serving=False, module="", reason="the server answers 404"),
    _item("script", module="", filter=""),
]


def test_get_says_what_each_runs() -> None:
    lines = [line.split(maxsplit=4) for line in render_items(ITEMS, Format.TABLE).splitlines()]
    assert lines[0][:4] == ["NAMESPACE", "KIND", "NAME", "STATE"]
    shown = {line[2]: (line[3], line[4]) for line in lines[1:]}
    assert shown["good"] == ("READY", "waf@0123456789ab")
    assert shown["older"][1].split("  ")[0] == "what it ran before"
    assert shown["older"][1].endswith("message is required")
    assert shown["none"][1].startswith("a stub")
    assert shown["script"] == ("READY", "script")


def test_other_kinds_have_the_usual_columns() -> None:
    other = {"resource": {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}}, "origin": "api"}
    assert "ORIGIN" in render_items([*ITEMS, other], Format.TABLE)


@pytest.mark.parametrize(
    ("fmt", "names"), [(Format.TABLE, ["older", "none"]), (Format.WIDE, ["good", "older", "none", "script"])]
)
def test_proxy_status_names_the_plugins_that_do_not_run_as_written(fmt: Format, names: list[str]) -> None:
    proxy = {
        "name": "web-0", "namespace": "shop", "type": "sidecar", "identity": "x", "address": "127.0.0.1", "connected_at": "now",
        "types": {}, "plugins": [item["status"] for item in ITEMS],
    }  # fmt: skip
    shown = [line for line in render_status([proxy], fmt, {}).splitlines() if line.startswith("  WasmPlugin/")]
    assert [line.partition(":")[0].rpartition("/")[2] for line in shown] == names
    assert any(line.endswith("FAILED: message is required") for line in shown)


MESH = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: web-0, namespace: shop}
spec: {address: 10.0.0.1, labels: {app: web}, ports: {http: 8080}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: caller-0, namespace: shop}
spec: {address: 10.0.0.2, labels: {app: caller}}
---
apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata: {name: late, namespace: shop}
spec: {selector: {matchLabels: {app: web}}, url: "https://a.example/late.wasm", failStrategy: FAIL_OPEN, pluginName: waf}
---
apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata: {name: missing, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  phase: AUTHN
  priority: 3
  url: file://missing.wasm
  match: [{mode: SERVER, ports: [{number: 8080}, {number: 9}]}]
---
apiVersion: extensions.istio.io/v1alpha1
kind: TrafficExtension
metadata: {name: calls, namespace: shop}
spec: {match: [{mode: CLIENT, ports: [{number: 80}]}], lua: {inlineCode: "x = 1"}}
"""


@pytest.fixture
def meshed(tmp_path: Path) -> tuple[MeshView, str]:
    file = tmp_path / "mesh.yaml"
    file.write_text(MESH)
    return view_of_files([file]), str(file)


def _line(text: str) -> int:
    return next(number for number, line in enumerate(MESH.splitlines(), 1) if text in line)


def test_describe_has_them_in_the_order_of_the_chain(meshed: tuple[MeshView, str]) -> None:
    view, file = meshed
    states = states_of({"plugins": [ITEMS[0]["status"] | {"resource": "WasmPlugin/shop/late"}]})
    page = described(view, find_workload(view, "web-0"), {**states_of_files(view), **states})
    first, third, second = page["plugins"]
    assert (first["order"], first["resource"], first["phase"], first["priority"]) == (
        1, "WasmPlugin/shop/missing", "AUTHN", 3,
    )  # fmt: skip
    assert (first["state"], first["fail_strategy"], first["match"]) == ("FAILED", "FAIL_CLOSE", ("SERVER:8080,9",))
    assert first["reason"].endswith("missing.wasm does not exist")
    assert first["reason_position"] == f"{file}:{_line('url: file://missing.wasm')}"
    assert (second["resource"], second["module"], second["state"]) == ("WasmPlugin/shop/late", DIGEST, "READY")
    assert (third["type"], third["match"], third["state"]) == ("LUA", ("CLIENT:80",), "UNKNOWN")
    text = render(page)
    assert f"3  UNSPECIFIED_PHASE  WasmPlugin/shop/late ({file}:{second['position'].rpartition(':')[2]})" in text
    assert "READY  waf@0123456789ab  FAIL_OPEN  all traffic" in text
    assert f"missing.wasm does not exist ({first['reason_position']}): requests get 503" in text


def test_describe_of_a_workload_without_policies(meshed: tuple[MeshView, str]) -> None:
    view, _ = meshed
    page = described(view, find_workload(view, "caller-0"), {})
    assert [plugin["resource"] for plugin in page["plugins"]] == ["TrafficExtension/shop/calls"]
    assert "policies (extAuthz), in the order they are asked:\n  none" in render(page)


@pytest.mark.parametrize(("port", "at_the_caller"), [(80, ["calls"]), (81, [])])
def test_explain_route_names_those_on_the_way(
    meshed: tuple[MeshView, str], port: int, at_the_caller: list[str]
) -> None:
    view, _ = meshed
    caller = find_workload(view, "caller-0")
    found = explain(view, caller, "GET", f"http://web.shop:{port}/", {}, live=False)
    names = {
        (at.workload, at.side, at.port): [p.resource.rpartition("/")[2] for p in at.plugins] for at in found.plugins
    }
    assert names.get(("shop/caller-0", "CLIENT", port), []) == at_the_caller
    served = ["missing", "late"] if port == 80 else []
    assert names.get(("shop/web-0", "SERVER", 8080), []) == served
    assert ("plugins at shop/web-0 (server, port 8080):" in render_route(found)) is bool(served)


def test_a_plugin_that_runs_an_older_module_says_so() -> None:
    plugin = Applied(
        1, "WasmPlugin/a/b", "f.yaml:1", "HTTP", "AUTHN", None, "FAIL_OPEN", (), state="FAILED", reason="no"
    )
    assert "no: requests pass it by" in "\n".join(lines([plugin]))
    assert "no: what it ran before stays" in "\n".join(lines([replace(plugin, serving=True)]))
    closed = replace(plugin, type="NETWORK", fail_strategy="FAIL_CLOSE")
    assert "no: connections are closed" in "\n".join(lines([closed]))
