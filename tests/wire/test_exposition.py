"""Metrics of several workers, merged."""

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from lateen.wire.exposition import MergedMetrics, Scrape


def worker(calls: dict[str, int], seconds: tuple[float, ...] = (), cached: float = 0) -> str:
    registry = CollectorRegistry()
    counter = Counter("calls", 'Calls, by "verdict"', ["verdict"], registry=registry)
    for verdict, count in calls.items():
        counter.labels(verdict).inc(count)
    histogram = Histogram("seconds", "Time", buckets=(0.1, 1.0), registry=registry)
    for value in seconds:
        histogram.observe(value)
    Gauge("cached", "Tokens held", registry=registry).set(cached)
    return generate_latest(registry).decode()


def samples(text: bytes) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_counters_and_histograms_are_summed_and_gauges_told_apart() -> None:
    scrapes = {
        0: Scrape(1, worker({"allow": 3, 'quoted "x"\n': 1}, (0.05, 0.5), 7)),
        1: Scrape(1, worker({"allow": 4, "deny": 1}, (2.0,), 8)),
    }
    text = MergedMetrics().merge(scrapes)
    found = samples(text)
    assert found["calls_total{verdict=allow}"] == 7
    assert found["calls_total{verdict=deny}"] == 1
    assert found['calls_total{verdict=quoted "x"\n}'] == 1
    assert found["seconds_bucket{le=0.1}"] == 1
    assert found["seconds_bucket{le=1.0}"] == 2
    assert (found["seconds_bucket{le=+Inf}"], found["seconds_count"], found["seconds_sum"]) == (3, 3, 2.55)
    assert (found["cached{worker=0}"], found["cached{worker=1}"]) == (7, 8)
    assert b'# HELP calls_total Calls, by "verdict"' in text
    assert b"# TYPE seconds histogram" in text


def test_a_worker_that_died_still_counts() -> None:
    merged = MergedMetrics()
    merged.merge({0: Scrape(1, worker({"allow": 3})), 1: Scrape(1, worker({"allow": 4}))})
    without = samples(merged.merge({0: Scrape(1, worker({"allow": 5}))}))
    assert without["calls_total{verdict=allow}"] == 9
    assert "cached{worker=1}" not in without
    replaced = samples(merged.merge({0: Scrape(1, worker({"allow": 5})), 1: Scrape(2, worker({"allow": 1}))}))
    assert replaced["calls_total{verdict=allow}"] == 10
    assert replaced["cached{worker=1}"] == 0


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.one_of(st.integers(1, 9), st.just("restart"), st.just("missing"))), max_size=40
    )
)
@settings(deadline=None, max_examples=60)
def test_counts_never_go_back_and_lose_nothing_that_was_scraped(steps: list[tuple[int, int | str]]) -> None:
    merged, generations, counts = MergedMetrics(), dict.fromkeys(range(4), 1), dict.fromkeys(range(4), 0)
    expected = 0
    for number, step in steps:
        missing = step == "missing"
        if step == "restart":
            generations[number] += 1
            counts[number] = 0
        elif isinstance(step, int):
            counts[number] += step
            expected += step
        scrapes = {
            i: Scrape(generations[i], worker({"x": counts[i]})) for i in range(4) if not (missing and i == number)
        }
        assert samples(merged.merge(scrapes))["calls_total{verdict=x}"] == expected
