"""The metrics of several workers as those of one service: pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

_SUMMED: Final = frozenset({"counter", "histogram", "summary"})
_Series = tuple[str, str, tuple[tuple[str, str], ...]]  # family, sample, labels


@dataclass(frozen=True, slots=True)
class Scrape:
    """What one worker says of itself. `generation` changes when another process takes its place."""

    generation: int
    text: str


@dataclass(slots=True)
class _Worker:
    generation: int
    counts: dict[_Series, float] = field(default_factory=dict)


class MergedMetrics:
    """Counters and histograms are summed, and never go back when a worker is replaced; gauges carry a label `worker`."""

    def __init__(self) -> None:
        """Nothing was scraped yet."""
        self._workers: dict[int, _Worker] = {}
        self._ended: dict[_Series, float] = {}  # of workers that are no more
        self._families: dict[str, tuple[str, str]] = {}  # name to type and help

    def merge(self, scrapes: Mapping[int, Scrape]) -> bytes:
        """The exposition text; a worker that is missing counts with what it said last."""
        gauges: list[tuple[_Series, float]] = []
        for number, scrape in sorted(scrapes.items()):
            counts: dict[_Series, float] = {}
            try:
                read = list(self._read(scrape.text))
            except ValueError:  # cut short: it counts with what it said last
                continue
            for series, value in read:
                if self._families[series[0]][0] in _SUMMED:
                    counts[series] = value
                else:
                    family, sample, labels = series
                    gauges.append(((family, sample, (*labels, ("worker", str(number)))), value))
            self._replace(number, _Worker(scrape.generation, counts))
        totals = dict(self._ended)
        for worker in self._workers.values():
            for series, value in worker.counts.items():
                totals[series] = totals.get(series, 0.0) + value
        return self._render([*totals.items(), *gauges])

    def _replace(self, number: int, worker: _Worker) -> None:
        before = self._workers.get(number)
        if before is not None and before.generation != worker.generation:
            for series, value in before.counts.items():
                self._ended[series] = self._ended.get(series, 0.0) + value
        self._workers[number] = worker

    def _read(self, text: str) -> Iterator[tuple[_Series, float]]:
        for family in text_string_to_metric_families(text):
            if family.name.endswith("_created"):
                continue
            self._families[family.name] = (family.type, family.documentation)
            for sample in family.samples:
                yield (family.name, sample.name, tuple(sample.labels.items())), sample.value

    def _render(self, series: list[tuple[_Series, float]]) -> bytes:
        metrics: dict[str, Metric] = {}
        for (family, sample, labels), value in series:
            metric = metrics.get(family)
            if metric is None:
                kind, text = self._families[family]
                metric = metrics[family] = Metric(family, text, kind)
            metric.add_sample(sample, dict(labels), value)
        registry = CollectorRegistry()
        registry.register(_Given(list(metrics.values())))
        return generate_latest(registry)


class _Given(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics
