from typing import Any

from lateen.local.following import new_rejections
from lateen.local.status import missing, parse_proxies, readable_log, render_table


def _proxy(name: str, *, synced: bool = True, **types: object) -> dict[str, Any]:
    return {"name": name, "namespace": "ns", "identity": "spiffe://x", "synced": synced, "types": types}


OK = {"status": "SYNCED", "sent": "1", "acked": "1", "since": 0, "error": None, "errors": []}
STALE = {**OK, "status": "STALE"}
ERROR = {"message": "bad regex.", "resource": "8080", "origin": "VirtualService/ns/x", "file": "x.yaml", "line": 7}
NACK = {**OK, "status": "NACK", "error": ERROR, "errors": [ERROR]}


def test_a_mesh_in_sync_waits_for_nobody() -> None:
    proxies = parse_proxies({"proxies": [_proxy("a", CDS=OK), _proxy("b", CDS=OK)]})
    assert missing(["ns/a", "ns/b"], proxies) == []


def test_it_says_who_is_late_and_why() -> None:
    proxies = parse_proxies({"proxies": [_proxy("a", synced=False, CDS=OK, LDS=STALE)]})
    assert missing(["ns/a", "ns/b"], proxies) == ["ns/a: LDS STALE", "ns/b: not connected to the control plane"]


def test_what_the_control_plane_cannot_translate_is_said() -> None:
    proxies = parse_proxies(
        {"proxies": [{**_proxy("a", synced=False, LDS={**OK, "status": "NOT_SENT"}), "error": "KeyError: 'x'"}]}
    )
    assert missing(["ns/a"], proxies) == ["ns/a: NO CONFIGURATION (KeyError: 'x')"]


def test_a_refusal_is_not_in_sync_and_names_the_yaml_once() -> None:
    proxies = parse_proxies({"proxies": [_proxy("a", RDS=NACK), _proxy("b", RDS=NACK)]})
    assert not proxies["ns/a"].synced
    (line,) = missing(["ns/a", "ns/b"], proxies)
    assert line == "RDS: bad regex (from VirtualService/ns/x at x.yaml:7)\n    refused by ns/a, ns/b"


def test_a_refusal_is_said_when_it_is_new() -> None:
    proxies = parse_proxies({"proxies": [_proxy("a", RDS=NACK)]})
    (line,) = new_rejections({}, proxies)
    assert line.startswith("error: RDS: bad regex")
    assert new_rejections({"ns/a": proxies["ns/a"].problems}, proxies) == []


def test_columns_are_aligned() -> None:
    assert render_table([("A", "LONG"), ("value", "x")]) == "A       LONG\nvalue   x"


def test_a_log_is_read_without_json_and_repetitions() -> None:
    line = '{"reason": "mode 0644", "event": "cannot start", "level": "error", "timestamp": "%s"}'
    log = "\n".join([line % 1, "no database", line % 2, "no database", '{"a": 1}', "[1]"])
    assert readable_log(log).splitlines() == ["cannot start: mode 0644", "no database", '{"a": 1}', "[1]"]
