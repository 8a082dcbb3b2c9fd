"""What the control plane says about its proxies, and how to say it to people. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SYNCED = "SYNCED"
NACK = "NACK"


@dataclass(frozen=True, slots=True)
class ProxyStatus:
    """One connected proxy. `versions` tells two states apart; `problems` are its rejected types, in words."""

    name: str
    namespace: str
    identity: str
    synced: bool
    versions: tuple[tuple[str, str], ...]
    problems: tuple[str, ...]
    summary: str

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


def parse_proxies(body: Mapping[str, Any]) -> dict[str, ProxyStatus]:
    """The answer of GET /v1/proxies, by namespace/name."""
    return {status.key: status for status in map(_parse_proxy, body.get("proxies", ()))}


def _parse_proxy(raw: Mapping[str, Any]) -> ProxyStatus:
    types: Mapping[str, Mapping[str, Any]] = raw.get("types") or {}
    problems = tuple(
        f"{name}: {describe_nack(entry.get('error') or {})}" for name, entry in types.items() if entry["status"] == NACK
    )
    late = [f"{name} {entry['status']}" for name, entry in types.items() if entry["status"] not in (SYNCED, "NOT_SENT")]
    return ProxyStatus(
        name=str(raw["name"]),
        namespace=str(raw["namespace"]),
        identity=str(raw.get("identity") or ""),
        synced=bool(raw.get("synced")),
        versions=tuple((name, str(entry.get("acked"))) for name, entry in types.items()),
        problems=problems,
        summary=SYNCED if raw.get("synced") else ", ".join(late) or "CONNECTED",
    )


def describe_nack(error: Mapping[str, Any]) -> str:
    """Envoy's reason, and the YAML it comes from."""
    text = str(error.get("message") or "rejected")
    origin = error.get("origin")
    if origin:
        place = f" ({error['file']}:{error['line']})" if error.get("file") else ""
        text += f" -- from {origin}{place}"
    return text


def missing(expected: Iterable[str], proxies: Mapping[str, ProxyStatus]) -> list[str]:
    """Why the mesh is not in sync yet, one line for each proxy that holds it up."""
    lines = []
    for key in expected:
        status = proxies.get(key)
        if status is None:
            lines.append(f"{key}: not connected to the control plane")
        elif not status.synced:
            lines.append(f"{key}: {status.summary}" + "".join(f"\n    {problem}" for problem in status.problems))
    return lines


def render_table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; the first row is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)
