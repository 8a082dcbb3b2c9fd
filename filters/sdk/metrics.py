"""Envoy's own metrics, made by a filter; they appear in Envoy's statistics under `wasmcustom.NAME`."""

from filters.sdk import host

COUNTER, GAUGE, HISTOGRAM = 0, 1, 2
MOST_METRICS = 1000


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
            self._id = host.define_metric(self.kind, self.name)
        return self._id


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
        host.record_metric(self._number(), value)

    def add(self, amount: int) -> None:
        host.increment_metric(self._number(), amount)

    @property
    def value(self) -> int:
        return host.get_metric(self._number())


class Histogram(_Metric):
    """Keeps a distribution."""

    __slots__ = ()
    kind = HISTOGRAM

    def record(self, value: int) -> None:
        host.record_metric(self._number(), value)
