"""How often a client may make us work for nothing."""


class Rate:
    """A fixed allowance in a second, and a further one for each call in it."""

    __slots__ = ("_allowance", "_calls", "_per_call", "_since", "_used")

    def __init__(self, allowance: int, per_call: int, now: float) -> None:
        """`allowance` a second, and `per_call` for each call."""
        self._allowance = allowance
        self._per_call = per_call
        self._since = now
        self._calls = 0
        self._used = 0

    def spend(self, amount: int, now: float, calls: int) -> bool:
        """Whether this is still within bounds; `calls` counts those of the connection."""
        self._used += amount
        if self._used <= self._allowance:
            return True
        if now - self._since >= 1.0:
            self._since = now
            self._calls = calls
            self._used = amount
            return True
        return self._used <= self._allowance + self._per_call * (calls - self._calls)
