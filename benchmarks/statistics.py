"""From noisy samples to figures one can quote: pairs with a baseline measured just before and after, medians, ranges. Pure."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of a load generator saw; times in microseconds."""

    requests: int
    seconds: float
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


@dataclass(frozen=True, slots=True)
class Sample:
    """One load on one variant. `cpu` is in seconds, by kind of process, and covers exactly the load."""

    variant: str
    connections: int
    load: Load
    cpu: Mapping[str, float] = field(default_factory=dict)

    def cpu_per_request(self, kind: str) -> float:
        """Microseconds of CPU."""
        return self.cpu.get(kind, 0.0) * 1e6 / self.load.requests

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        load = self.load
        return {
            "variant": self.variant,
            "connections": self.connections,
            "requests": load.requests,
            "seconds": load.seconds,
            "p50_us": load.p50,
            "p99_us": load.p99,
            "cpu_seconds": dict(self.cpu),
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "Sample":
        """Read what `as_dict` wrote."""
        load = Load(raw["requests"], raw["seconds"], raw["p50_us"], raw["p99_us"])
        return cls(raw["variant"], raw["connections"], load, raw["cpu_seconds"])


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of repetitions, and how far they lie apart."""

    median: float
    low: float
    high: float

    def scaled(self, factor: float) -> "Spread":
        """In another unit."""
        return Spread(self.median * factor, self.low * factor, self.high * factor)

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return {"median": self.median, "min": self.low, "max": self.high}


def spread(values: Iterable[float]) -> Spread:
    """ValueError without any value."""
    some = sorted(values)
    if not some:
        raise ValueError("no samples")
    return Spread(statistics.median(some), some[0], some[-1])


@dataclass(frozen=True, slots=True)
class Pair:
    """A sample and the baseline around it: the mean of the sample before and the sample after."""

    sample: Sample
    rate: float
    p50: float
    p99: float

    @property
    def rate_ratio(self) -> float:
        return self.sample.load.rate / self.rate

    @property
    def added_p50(self) -> float:
        return self.sample.load.p50 - self.p50

    @property
    def added_p99(self) -> float:
        return self.sample.load.p99 - self.p99

    @property
    def p50_ratio(self) -> float:
        return self.sample.load.p50 / self.p50

    @property
    def p99_ratio(self) -> float:
        return self.sample.load.p99 / self.p99


def paired(samples: Sequence[Sample], baseline: str) -> list[Pair]:
    """Pair every other sample, in the order they were taken, with its neighbours of the variant `baseline`.

    ValueError when there is none on either side. A neighbour is one with as many connections.
    """
    pairs = []
    for index, sample in enumerate(samples):
        if sample.variant == baseline:
            continue
        alike = [(i, s) for i, s in enumerate(samples) if s.variant == baseline and s.connections == sample.connections]
        before = [s for i, s in alike if i < index][-1:]
        after = [s for i, s in alike if i > index][:1]
        around = [s.load for s in (*before, *after)]
        if not around:
            raise ValueError(f"no sample of {baseline} beside {sample.variant}")
        pairs.append(
            Pair(
                sample,
                statistics.fmean(load.rate for load in around),
                statistics.fmean(load.p50 for load in around),
                statistics.fmean(load.p99 for load in around),
            )
        )
    return pairs


def percentile(ordered: Sequence[float], fraction: float) -> float:
    """The nearest-rank percentile of values in ascending order."""
    if not ordered:
        raise ValueError("no samples")
    return ordered[max(0, math.ceil(fraction * len(ordered)) - 1)]


def interleaved(variants: Sequence[str], baseline: str) -> list[str]:
    """One round of measuring: the baseline before and after each variant."""
    return [baseline, *(name for variant in variants for name in (variant, baseline))]
