"""Envoy's own metrics, made by a filter; they appear in Envoy's statistics under `wasmcustom.NAME`."""

from filters.sdk import host

COUNTER, GAUGE, HISTOGRAM = 0, 1, 2
MOST_METRICS = 1000
"""Names a VM defines: Envoy keeps a metric, and every definition of it, for ever."""
HIGHEST = (1 << 63) - 1

defined: dict[tuple[int, str], int] = {}
"""Envoy's numbers, by kind and name."""


class _Metric:
    __slots__ = ("_id", "name")
    kind = COUNTER

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"the name of a metric must be str, not {type(name).__name__}")
        self.name = name
        self._id: int | None = None

    def _number(self) -> int:
        """Defined at first use: while a module is imported there is no Envoy."""
        if self._id is None:
            key = self.kind, self.name
            if key not in defined:
                if len(defined) >= MOST_METRICS:
                    raise RuntimeError(f"metric {self.name!r} is one too many: there are {MOST_METRICS}")
                defined[key] = host.define_metric(*key)
            self._id = defined[key]
        return self._id


def _whole(what: str, value: int) -> int:
    """Envoy's are 64 bits without a sign."""
    if not isinstance(value, int):
        raise TypeError(f"{what} an int, not {type(value).__name__}")
    if not 0 <= value <= HIGHEST:
        raise ValueError(f"{what} between 0 and 2**63 - 1, not {value}")
    return value


class Counter(_Metric):
    """Goes up."""

    __slots__ = ()

    def add(self, amount: int = 1) -> None:
        """`amount` more, none if it is 0; ValueError if it is less."""
        if not isinstance(amount, int):
            raise TypeError(f"a counter goes up by int, not {type(amount).__name__}")
        if amount < 0:
            raise ValueError("a counter only goes up")
        number = self._number()
        if amount:  # Envoy refuses 0
            host.increment_metric(number, amount)

    @property
    def value(self) -> int:
        return host.get_metric(self._number())


class Gauge(_Metric):
    """Goes up and down."""

    __slots__ = ()
    kind = GAUGE

    def set(self, value: int) -> None:
        """`value`, 0 or more."""
        host.record_metric(self._number(), _whole("a gauge is set to", value))

    def add(self, amount: int) -> None:
        """`amount` more, or less if it is negative; below 0 Envoy begins at the top."""
        if not isinstance(amount, int):
            raise TypeError(f"a gauge goes up by int, not {type(amount).__name__}")
        host.increment_metric(self._number(), amount)

    @property
    def value(self) -> int:
        return host.get_metric(self._number())


class Histogram(_Metric):
    """Keeps a distribution."""

    __slots__ = ()
    kind = HISTOGRAM

    def record(self, value: int) -> None:
        """`value`, 0 or more."""
        host.record_metric(self._number(), _whole("a histogram records", value))
