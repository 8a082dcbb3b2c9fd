"""Tables are aligned, figures are readable, and the whole path's tables say what was measured."""

import json

import pytest

from benchmarks.report import Section, Table, number, render_section, render_table, with_range
from benchmarks.statistics import Load, Sample, Spread, interleaved
from benchmarks.variants import ENVOY_ALONE
from benchmarks.whole_path import NAMES, section


@pytest.mark.parametrize(
    ("value", "text"),
    [(12345.6, "12,346"), (99.94, "99.9"), (9.994, "9.99"), (0.5, "0.500"), (0, "0.00"), (-42.0, "-42.0")],
)
def test_numbers_have_about_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_columns_are_aligned() -> None:
    text = render_table(Table(("name", "us"), (("a", "1.0"), ("longer", "12.0"))))
    assert text.splitlines() == ["name      us", "------  ----", "a        1.0", "longer  12.0"]


def test_a_section_has_title_tables_and_notes() -> None:
    text = render_section(Section("x", "what against what", (Table(("a", "b"), (("c", "d"),)),), ("a note",)))
    assert text.startswith("== what against what\n\na  b\n")
    assert text.endswith("\n- a note")


def test_ranges_are_shown_with_the_median_first() -> None:
    assert with_range(Spread(0.5, 0.25, 0.75)) == "0.500 (0.250..0.750)"


def result() -> dict[str, object]:
    """Two rounds in which every path costs twice as much as Envoy alone."""
    samples = []
    for connections in (1, 16):
        for _ in range(2):
            for name in interleaved(NAMES[1:], ENVOY_ALONE):
                cost = 1 if name == ENVOY_ALONE else 2
                load = Load(requests=12_000 // cost, seconds=1.0, p50=100.0 * cost, p99=400.0 * cost)
                samples.append(Sample(name, connections, load, {"gateway": 0.6, "app": 0.06}))
    raw = [s.as_dict() for s in samples]
    return {"samples": raw, "generator": "a generator", "rounds": 2, "seconds": 1.0, "concurrency": 1}


def test_the_whole_path_is_summed_up_as_ratios_to_envoy_alone() -> None:
    made = section(result())
    summary = made.data["summary"]["16 connections"]
    assert set(summary) == set(NAMES)
    for name in NAMES[1:]:
        assert summary[name]["rate_ratio"] == {"median": 0.5, "min": 0.5, "max": 0.5}
        assert summary[name]["added_p50_us"]["median"] == 100.0
        assert summary[name]["cpu_us_per_request"]["gateway"] == pytest.approx(100.0)
    assert "rate_ratio" not in summary[ENVOY_ALONE]
    assert json.loads(json.dumps(made.data)) == made.data


def test_every_path_has_a_row_in_every_table() -> None:
    for table in section(result()).tables:
        assert [row[0] for row in table.rows] == list(NAMES)
        assert len({len(row) for row in (table.columns, *table.rows)}) == 1
