"""What the control plane says about its proxies, and how to say it to people. Pure."""

import json
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
        f"{name}: {describe_nack(error)}"
        for name, entry in types.items()
        if entry["status"] == NACK
        for error in entry.get("errors") or [entry.get("error") or {}]
    )
    synced = bool(raw.get("synced")) and not problems
    failure = f"NO CONFIGURATION ({raw['error']})" if raw.get("error") else ""
    late = [f"{name} {entry['status']}" for name, entry in types.items() if entry["status"] not in (SYNCED, "NOT_SENT")]
    return ProxyStatus(
        name=str(raw["name"]),
        namespace=str(raw["namespace"]),
        identity=str(raw.get("identity") or ""),
        synced=synced,
        versions=tuple((name, str(entry.get("acked"))) for name, entry in types.items()),
        problems=problems,
        summary=SYNCED if synced else failure or ", ".join(late) or "CONNECTED",
    )


def describe_nack(error: Mapping[str, Any]) -> str:
    """Envoy's reason, and the YAML it comes from."""
    text = str(error.get("message") or "rejected")
    origin = error.get("origin")
    if origin:
        place = f" at {error['file']}:{error['line']}" if error.get("file") else ""
        text = f"{text.rstrip('.')} (from {origin}{place})"
    return text


def rejected(proxies: Iterable[ProxyStatus]) -> list[str]:
    """Each rejected piece of configuration once, with the proxies that refuse it."""
    said: dict[str, list[str]] = {}
    for status in proxies:
        for problem in status.problems:
            said.setdefault(problem, []).append(status.key)
    return [f"{problem}\n    refused by {', '.join(keys)}" for problem, keys in said.items()]


def missing(expected: Sequence[str], proxies: Mapping[str, ProxyStatus]) -> list[str]:
    """Why the mesh is not in sync yet, one line for each proxy that holds it up."""
    lines = []
    for key in expected:
        status = proxies.get(key)
        if status is None:
            lines.append(f"{key}: not connected to the control plane")
        elif not status.synced and not status.problems:
            lines.append(f"{key}: {status.summary}")
    return lines + rejected(proxies[key] for key in expected if key in proxies)


def readable_log(text: str) -> str:
    """The lines of a log for people: those of our services without their JSON, and what repeats said once."""
    lines: list[str] = []
    for line in map(_readable, text.splitlines()):
        if line not in lines:
            lines.append(line)
    return "\n".join(lines)


def _readable(line: str) -> str:
    try:
        entry = json.loads(line)
    except ValueError:
        return line
    if not isinstance(entry, dict) or "event" not in entry:
        return line
    told = [entry["event"], *(entry[name] for name in ("reason", "error", "exception") if name in entry)]
    return ": ".join(map(str, told))


def render_table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; the first row is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)
