"""Rendering: tables that scripts can read, and colour only where it helps."""

import io
import json

import pytest
import yaml

from lateen.cli.output import Colour, Format, render_data, render_table, wants_colour
from lateen.cli.proxystatus import render_status
from lateen.cli.resources import parse_target, render_items


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_follows_flag_environment_and_terminal() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    assert wants_colour(Colour.AUTO, terminal, {})
    assert not wants_colour(Colour.AUTO, pipe, {})
    assert not wants_colour(Colour.AUTO, terminal, {"NO_COLOR": "1"})
    assert wants_colour(Colour.AUTO, pipe, {"FORCE_COLOR": "1"})
    assert wants_colour(Colour.ALWAYS, pipe, {"NO_COLOR": "1"})
    assert not wants_colour(Colour.NEVER, terminal, {"FORCE_COLOR": "1"})


def test_tables_are_aligned_and_never_cut() -> None:
    assert render_table(("A", "LONG"), [("x" * 200, "1"), ("y", "")]) == (
        "A" + " " * 202 + "LONG\n" + "x" * 200 + "   1\ny"
    )


def test_json_and_yaml_say_the_same() -> None:
    value = {"a": [1, "ü"], "b": None}
    assert json.loads(render_data(value, Format.JSON)) == yaml.safe_load(render_data(value, Format.YAML)) == value
    enumerated = {"format": Format.TABLE, "all": tuple(Format)}
    plain = {"format": "table", "all": ["table", "wide", "json", "yaml", "name"]}
    assert (
        json.loads(render_data(enumerated, Format.JSON))
        == yaml.safe_load(render_data(enumerated, Format.YAML))
        == plain
    )


ITEM = {
    "resource": {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "reviews", "namespace": "default"},
        "spec": {"hosts": ["reviews"]},
    },
    "source": {"file": "reviews.yaml", "line": 3},
    "origin": "file",
}


def test_items_in_every_format() -> None:
    assert render_items([ITEM], Format.NAME) == "VirtualService/default/reviews"
    assert render_items([ITEM], Format.TABLE).splitlines()[1].split() == [
        "default",
        "VirtualService",
        "reviews",
        "file",
    ]
    assert "reviews.yaml:3" in render_items([ITEM], Format.WIDE)
    assert json.loads(render_items([ITEM], Format.JSON)) == {"items": [ITEM["resource"]]}
    assert json.loads(render_items([ITEM], Format.JSON, single=True)) == ITEM["resource"]
    assert render_items([], Format.TABLE) == "no resources"


def proxy(**types: dict[str, object]) -> dict[str, object]:
    return {
        "name": "orders-0",
        "namespace": "orders",
        "workload": "orders",
        "type": "sidecar",
        "identity": "spiffe://cluster.local/ns/orders/sa/orders-svc",
        "address": "127.1.2.10",
        "connected_at": "2026-01-01T00:00:00Z",
        "synced": True,
        "types": types,
    }


def test_status_shows_only_types_in_use_and_why_something_was_refused() -> None:
    error = {
        "message": "bad regex",
        "resource": "http_proxy",
        "origin": "VirtualService/orders/x",
        "file": "x.yaml",
        "line": 7,
    }
    text = render_status(
        [
            proxy(
                CDS={"status": "SYNCED", "since": 0},
                LDS={"status": "STALE", "since": 12.3},
                RDS={"status": "NACK", "since": 1, "error": error},
                SDS={"status": "NOT_SENT", "since": 0},
            )
        ],
        Format.TABLE,
        {"orders-0.orders": "RUNNING"},
    )
    header, row, *rest = text.splitlines()
    assert header.split() == ["NAME", "TYPE", "CDS", "LDS", "RDS", "SDS", "IDENTITY"]
    assert "orders-0.orders" in row
    assert all(word in row for word in ("SYNCED", "STALE 12s", "NACK", "NOT SENT"))
    assert any("bad regex" in line for line in rest)
    assert any("VirtualService/orders/x (x.yaml:7)" in line for line in rest)


def test_status_says_what_the_control_plane_could_not_translate() -> None:
    text = render_status([{**proxy(LDS={"status": "NOT_SENT"}), "error": "KeyError: 'x'"}], Format.TABLE, {})
    assert "orders-0.orders: no configuration can be made for it" in text
    assert "KeyError: 'x'" in text


def test_status_of_an_empty_mesh() -> None:
    assert render_status([], Format.TABLE, {}) == "no proxy is connected"
    assert json.loads(render_status([], Format.JSON, {})) == {"proxies": []}


def test_status_shows_the_application_that_does_not_run() -> None:
    apps = {"orders-0.orders": "CRASHING"}
    header, row = (
        line.split() for line in render_status([proxy(CDS={"status": "SYNCED"})], Format.TABLE, apps).splitlines()
    )
    assert dict(zip(header, row, strict=True))["APP"] == "CRASHING"
    assert json.loads(render_status([proxy()], Format.JSON, apps))["proxies"][0]["app"] == "CRASHING"


@pytest.mark.parametrize(
    ("api_version", "shown"),
    [
        ("networking.istio.io/v1", "Gateway.networking.istio.io/shop/edge"),
        ("gateway.networking.k8s.io/v1", "Gateway.gateway.networking.k8s.io/shop/edge"),
    ],
)
def test_the_two_kinds_of_gateway_differ_in_every_format_and_can_be_asked_for(api_version: str, shown: str) -> None:
    metadata = {"name": "edge", "namespace": "shop"}
    item = {**ITEM, "resource": {"apiVersion": api_version, "kind": "Gateway", "metadata": metadata}}
    assert render_items([item], Format.NAME) == shown
    assert render_items([item], Format.TABLE).splitlines()[1].split()[1] == shown.partition("/")[0]
    infos, namespace, name = parse_target(shown, None, None)
    assert [(info.api_version, namespace, name) for info in infos] == [(api_version, "shop", "edge")]


def test_a_word_that_two_kinds_share_means_both() -> None:
    assert {info.group for info in parse_target("gateways", None, None)[0]} == {
        "networking.istio.io",
        "gateway.networking.k8s.io",
    }
    assert [info.group for info in parse_target("gw/edge", None, None)[0]] == ["networking.istio.io"]
    assert [info.group for info in parse_target("gtw/edge", None, None)[0]] == ["gateway.networking.k8s.io"]
