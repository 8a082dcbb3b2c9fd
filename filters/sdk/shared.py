"""Data that all workers of an Envoy share, with compare-and-set."""

from collections.abc import Callable

from filters.sdk import host

ATTEMPTS = 100
ABSENT = 0xFFFFFFFF
"""A version that no value has: Envoy sets an absent key whatever the version, but with 0 also one that has come meanwhile."""
MOST_KEYS = 100_000
MOST_BYTES = 64 << 20
"""That one VM writes: Envoy keeps every key for ever, there is no way to delete one."""
written: dict[str, int] = {}
"""Sizes of what this VM has written last, by key."""
_total = 0


class SharedData:
    """A small key-value store in Envoy's memory, one for each vm_id; lost when Envoy ends."""

    __slots__ = ()

    def get(self, key: str) -> bytes | None:
        found = host.get_shared(_text(key))
        return None if found is None else found[0]

    def get_versioned(self, key: str) -> tuple[bytes | None, int]:
        """Value and version, for `compare_and_set`; a key that is absent has version 0."""
        return host.get_shared(_text(key)) or (None, 0)

    def set(self, key: str, value: bytes | str) -> None:
        """Set the value whatever it was."""
        _set(key, value, 0)

    def compare_and_set(self, key: str, value: bytes | str, version: int) -> bool:
        """Set the value if the version is still `version` (0: if the key is still absent); whether it was."""
        try:
            _set(key, value, version or ABSENT)
        except host.HostError as error:
            if error.status == host.CAS_MISMATCH:
                return False
            raise
        return True

    def update(self, key: str, change: Callable[[bytes | None], bytes | str]) -> bytes:
        """Replace the value by `change(value)`, again if another worker was faster."""
        for _ in range(ATTEMPTS):
            old, version = self.get_versioned(key)
            new = _value(change(old))
            if self.compare_and_set(key, new, version):
                return new if isinstance(new, bytes) else new.encode()
        raise RuntimeError(f"shared data {key!r} changes too fast")


def _set(key: str, value: bytes | str, version: int) -> None:
    """RuntimeError if this VM has written too much."""
    global _total  # noqa: PLW0603
    raw = _value(value)
    before = written.get(_text(key))
    size = len(key) + len(raw)
    total = _total + size - (before or 0)
    if total > MOST_BYTES or (before is None and len(written) >= MOST_KEYS):
        raise RuntimeError(f"shared data is full: a worker writes at most {MOST_KEYS} keys and {MOST_BYTES >> 20} MiB")
    host.set_shared(key, raw, version)
    written[key] = size
    _total = total


def _text(key: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"a key of shared data must be str, not {type(key).__name__}")
    return key


def _value(value: bytes | str) -> bytes | str:
    if not isinstance(value, (bytes, str)):
        raise TypeError(f"shared data must be bytes or str, not {type(value).__name__}")
    return value
