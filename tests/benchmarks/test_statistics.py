"""Ratios are to the baseline around a sample; medians and ranges are of repetitions."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.statistics import Load, Sample, interleaved, paired, percentile, spread


def sample(variant: str, rate: float, connections: int = 1, p50: float = 100.0) -> Sample:
    return Sample(variant, connections, Load(requests=int(rate), seconds=1.0, p50=p50, p99=2 * p50))


def test_a_sample_is_compared_with_the_mean_of_its_neighbours() -> None:
    taken = [
        sample("alone", 1000),
        sample("mesh", 400, p50=300),
        sample("alone", 600),
        sample("mesh", 150),
        sample("alone", 400),
    ]
    first, second = paired(taken, "alone")
    assert first.rate_ratio == pytest.approx(400 / 800)
    assert second.rate_ratio == pytest.approx(150 / 500)
    assert [first.added_p50, first.p50_ratio, first.added_p99, first.p99_ratio] == pytest.approx([200, 3, 400, 3])


def test_a_neighbour_has_as_many_connections() -> None:
    taken = [sample("alone", 1000, 1), sample("alone", 9000, 16), sample("mesh", 500, 1), sample("alone", 8000, 16)]
    (pair,) = paired(taken, "alone")
    assert pair.rate_ratio == pytest.approx(0.5)


def test_without_a_baseline_there_is_no_ratio() -> None:
    with pytest.raises(ValueError, match="no sample of alone"):
        paired([sample("mesh", 500)], "alone")


def test_the_baseline_stands_before_and_after_every_variant() -> None:
    order = interleaved(["a", "b"], "base")
    assert order == ["base", "a", "base", "b", "base"]


def test_spread_is_median_and_range() -> None:
    found = spread([3.0, 1.0, 10.0])
    assert (found.median, found.low, found.high) == (3.0, 1.0, 10.0)
    assert found.scaled(2).as_dict() == {"median": 6.0, "min": 2.0, "max": 20.0}
    with pytest.raises(ValueError, match="no samples"):
        spread([])


@pytest.mark.parametrize(("fraction", "expected"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_percentile_of_a_hundred(fraction: float, expected: int) -> None:
    assert percentile([float(n) for n in range(1, 101)], fraction) == expected


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0, 1))
def test_a_percentile_is_one_of_the_values_and_grows_with_the_fraction(values: list[float], fraction: float) -> None:
    values.sort()
    found = percentile(values, fraction)
    assert found in values
    assert percentile(values, fraction / 2) <= found <= values[-1]


def test_samples_survive_json() -> None:
    made = Sample("mesh", 16, Load(10, 0.5, 1.5, 2.5), {"gateway": 0.25})
    read = Sample.from_dict(json.loads(json.dumps(made.as_dict())))
    assert read == made
    assert read.cpu_per_request("gateway") == pytest.approx(25_000)
    assert read.cpu_per_request("redis") == 0
