"""The linear memory of the snapshot: C's data, Python's heap and the manifest the guest has left in it."""

import json
from collections.abc import Iterator, Mapping

from filters.toolchain.binary import MalformedModuleError

MARK = b"lateen-filter-manifest:"
"""Followed by eight hexadecimal digits (the length) and JSON, in one bytes object; see filters.sdk.snapshot."""
SIZES_MARK = b"lateen-filter-sizes:"
"""The same; see guest_sizes."""
ZERO_RUN = 32
"""Zero bytes that are worth a new segment."""


class Image:
    """Initial memory, written to as a whole and cut into segments again."""

    def __init__(self, segments: Iterator[tuple[int, bytes]] | list[tuple[int, bytes]]) -> None:
        parts = list(segments)
        self.content = bytearray(max(offset + len(part) for offset, part in parts))
        for offset, part in parts:
            self.content[offset : offset + len(part)] = part

    def manifest(self) -> Mapping[str, object]:
        """What the guest says of itself, and of its modules' sizes if it does."""
        found = self._said(MARK)
        if found is None:
            raise MalformedModuleError("the component holds no manifest: it was not built by lateen")
        sizes = self._said(SIZES_MARK)
        return found if sizes is None else {**found, "sizes": sizes}

    def _said(self, mark: bytes) -> Mapping[str, object] | None:
        """Several copies of a mark may lie about, one is whole."""
        at = self.content.find(mark)
        while at >= 0:
            start = at + len(mark) + 8
            try:
                length = int(self.content[at + len(mark) : start], 16)
                found = json.loads(self.content[start : start + length])
            except ValueError:
                found = None
            if isinstance(found, dict):
                return found
            at = self.content.find(mark, at + 1)
        return None

    def segments(self) -> Iterator[tuple[int, bytes]]:
        """Everything but runs of zeroes."""
        content, at, end = bytes(self.content), 0, len(self.content)
        gap = bytes(ZERO_RUN)
        while at < end:
            start = next((place for place in range(at, min(at + 8, end)) if content[place]), None)
            if start is None:
                start = _next_nonzero(content, at)
                if start is None:
                    return
            stop = content.find(gap, start)
            stop = end if stop < 0 else stop
            yield start, content[start:stop]
            at = stop


def _next_nonzero(content: bytes, at: int) -> int | None:
    """Position of the next byte that is not zero."""
    step = 4096
    while at < len(content):
        block = content[at : at + step]
        stripped = block.lstrip(b"\0")
        if stripped:
            return at + len(block) - len(stripped)
        at += step
    return None
