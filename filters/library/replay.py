"""What was seen in the last minutes, remembered by all workers together in a bounded part of the shared data."""

import hashlib
import math

from lateen_filter import SharedData

SHARDS = 16
SLOTS_A_WINDOW = 12
DIGEST_BYTES = 12
SLOT_BYTES = 8
SLACK = 1.5
"""Hashes do not fall into shards quite evenly."""


class FullError(Exception):
    """There is no room to remember more."""


class ReplayMemory:
    """Remembers what happened at moments within a window of time.

    Time is cut into slots, each with SHARDS cells in the shared data, and cells are used again when their slot is over: there is
    never more than `most_bytes`, whatever comes. Nothing is forgotten before its time: when a cell is full, FullError.
    """

    def __init__(self, shared: SharedData, name: str, window_seconds: int, per_second: int) -> None:
        self._shared = shared
        self._name = name
        self.slot_seconds = max(1, window_seconds // SLOTS_A_WINDOW)
        # Of two moments in the window the later one never takes the cells of the earlier.
        self.slots = window_seconds // self.slot_seconds + 2
        self.most_in_cell = math.ceil(per_second * self.slot_seconds / SHARDS * SLACK) + SHARDS

    @property
    def most_bytes(self) -> int:
        """What the cells hold at most, without their keys."""
        return self.slots * SHARDS * (SLOT_BYTES + DIGEST_BYTES * self.most_in_cell)

    def add(self, moment: int, what: bytes) -> bool:
        """Remember `what`, of `moment` (seconds since 1970, in the window); whether it is new. FullError if there is no room."""
        digest = hashlib.sha256(what).digest()[: DIGEST_BYTES + 1]
        slot, digest, shard = moment // self.slot_seconds, digest[:-1], digest[-1] % SHARDS
        header = slot.to_bytes(SLOT_BYTES, "big")
        new = True

        def with_it(old: bytes | None) -> bytes:
            nonlocal new
            new = True
            if old is None or old[:SLOT_BYTES] < header:
                return header + digest
            if old[:SLOT_BYTES] > header:
                raise FullError("the moment is before the window")
            if holds(old, digest):
                new = False
                return old
            if len(old) >= SLOT_BYTES + DIGEST_BYTES * self.most_in_cell:
                raise FullError(f"more than {self.most_in_cell} in a cell")
            return old + digest

        self._shared.update(f"{self._name}:{slot % self.slots}:{shard}", with_it)
        return new


def holds(cell: bytes, digest: bytes) -> bool:
    """Whether a digest is in a cell, at a place where one begins."""
    at = cell.find(digest, SLOT_BYTES)
    while at >= 0:
        if (at - SLOT_BYTES) % DIGEST_BYTES == 0:
            return True
        at = cell.find(digest, at + 1)
    return False
