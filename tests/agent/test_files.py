"""The two kinds of files the agent reads: its settings, and one for each proxy."""

import json
from pathlib import Path

import pytest

from lateen.agent.proxyfile import parse_proxy
from lateen.agent.settings import Settings, SettingsError, load_settings, parse_settings

SETTINGS = {"ca_address": "h:1", "root_cert_file": "/r", "proxies_dir": "/p", "ads_address": "h:2"}
PROXY = {"name": "a-0", "namespace": "ns", "service_account": "a", "address": "127.0.0.1", "sds_socket": "/s"}


def test_settings_with_defaults() -> None:
    settings = parse_settings(json.dumps(SETTINGS | {"secret_dirs": ["/etc/certs"]}))
    assert settings == Settings("h:1", "/r", "/p", "h:2", secret_dirs=("/etc/certs",))
    assert settings.ca_name == "lateen-ca.istio-system.svc"
    assert parse_settings(settings.render()) == settings


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a JSON object"),
        ("{}", "ads_address is missing"),
        (json.dumps(SETTINGS | {"poll": 1}), "unknown key 'poll', known are"),
        (json.dumps(SETTINGS | {"ca_address": 1}), "ca_address is not text"),
        (json.dumps(SETTINGS | {"ads_address": "host"}), "ads_address is not host:port"),
        (json.dumps(SETTINGS | {"poll_seconds": True}), "poll_seconds is not a number"),
        (json.dumps(SETTINGS | {"poll_seconds": 0}), "between"),
        (json.dumps(SETTINGS | {"secret_dirs": [1]}), "list of paths"),
        (json.dumps(SETTINGS | {"log_level": "loud"}), "log_level is none of"),
        (json.dumps(SETTINGS | {"log_format": "xml"}), "log_format is none of"),
    ],
)
def test_wrong_settings_are_named_with_their_file(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "agent.json"
    path.write_text(text)
    with pytest.raises(SettingsError, match=problem) as refused:
        load_settings(path)
    assert str(refused.value).startswith(f"{path}: ")


def test_settings_are_bounded_text(tmp_path: Path) -> None:
    path = tmp_path / "agent.json"
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(path)
    path.write_bytes(b" " * 300_000)
    with pytest.raises(SettingsError, match="larger"):
        load_settings(path)
    path.write_bytes(b"\xff")
    with pytest.raises(SettingsError, match="UTF-8"):
        load_settings(path)


def test_a_proxy_with_everything() -> None:
    given = PROXY | {
        "node_type": "router",
        "app_address": "127.0.0.2",
        "workload_name": "a",
        "labels": {"app": "a"},
        "mode": "REDIRECT",
        "locality": "eu/eu-1",
        "token": "t0ken",
        "bootstrap_file": "/b",
        "ports": {"http": 8080},
        "owner": 1337,
    }
    proxy = parse_proxy(json.dumps(given))
    assert {key: getattr(proxy, key) for key in given} == given
    assert proxy.key == "ns/a-0"
    assert proxy.spiffe_id("td") == "spiffe://td/ns/ns/sa/a"
    assert "t0ken" not in repr(proxy)
    assert proxy.without_token() == parse_proxy(json.dumps(given | {"token": "other"})).without_token()


def test_null_is_as_good_as_absent() -> None:
    assert parse_proxy(json.dumps(PROXY | {"bootstrap_file": None, "owner": None})) == parse_proxy(json.dumps(PROXY))
    assert parse_proxy(json.dumps(PROXY | {"ports": [80, 443]})).ports == {"80": 80, "443": 443}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"name": "../x"}, "name is not a DNS name"),
        ({"name": "a~b"}, "name is not a DNS name"),
        ({"service_account": "a/b"}, "service_account is not"),
        ({"namespace": "a.b"}, "namespace is not"),
        ({"namespace": None}, "namespace is missing"),
        ({"address": "localhost"}, "address is not an IP"),
        ({"app_address": "x"}, "app_address is not an IP"),
        ({"node_type": "ztunnel"}, "node_type is none of"),
        ({"mode": "TPROXY"}, "mode is none of"),
        ({"sds_socket": "s.sock"}, "sds_socket is not an absolute path"),
        ({"bootstrap_file": "b.json"}, "bootstrap_file is not an absolute path"),
        ({"labels": {"a": 1}}, "labels is not a map"),
        ({"ports": {"http": 0}}, "ports is neither"),
        ({"ports": "80"}, "ports is neither"),
        ({"owner": -1}, "owner is not a user id"),
        ({"owner": "envoy"}, "owner is not a user id"),
        ({"extra": ""}, "unknown key 'extra'"),
        ({"token": 5}, "token is not text"),
    ],
)
def test_wrong_proxies_are_refused_with_the_key(fields: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_proxy(json.dumps(PROXY | fields))
