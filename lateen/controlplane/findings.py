"""What could not be translated: one bad object is left out alone, and its author is told why."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

from lateen.mesh.kinds import ResourceKey


class TranslationError(ValueError):
    """Part of a resource that cannot become Envoy configuration; the message is for the resource's author."""


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One part of a resource that was left out, and why."""

    origin: ResourceKey
    path: str
    message: str


class Findings:
    """Collects findings while resources are translated; the same finding of several ports or proxies counts once."""

    def __init__(self) -> None:
        self._found: dict[Finding, None] = {}

    def __iter__(self) -> Iterator[Finding]:
        return iter(sorted(self._found))

    def add(self, origin: ResourceKey, message: str, path: str = "") -> None:
        """Remember one finding."""
        self._found[Finding(origin, path, message)] = None

    def extend(self, others: Iterator[Finding] | Findings) -> None:
        """Take over findings made elsewhere."""
        self._found.update(dict.fromkeys(others))

    @contextlib.contextmanager
    def guard(self, origin: ResourceKey, path: str = "") -> Iterator[None]:
        """Leave out what the block was translating when it cannot be translated."""
        try:
            yield
        except ValueError as error:  # ours, or protobuf's about a value out of range
            self.add(origin, str(error), path)
