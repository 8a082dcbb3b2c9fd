"""The measures that the benchmark takes out are still in the source, and what is left still answers."""

import pytest

from benchmarks.wire_safety import MEASURES, measure, without


def test_every_case_answers_every_call() -> None:
    found = measure(rounds=1, seconds=0.001)
    assert len(found) == len(MEASURES) + 3
    assert all(value.low > 0 for value in found.values())


def test_a_measure_that_is_gone_is_an_error() -> None:
    with pytest.raises(ValueError, match="no longer has"):
        without([("lateen.wire.connection", "text that is not there", "")])
