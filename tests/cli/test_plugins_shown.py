"""What `get` and `proxy-status` say of plugins."""

from typing import Any

import pytest

from lateen.cli.output import Format
from lateen.cli.proxystatus import render_status
from lateen.cli.resources import render_items

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
