"""Windows: fixed, aligned to the epoch."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit.window import UNIT_SECONDS, Window, window_at

moments = st.floats(1e9, 4e9).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))


@given(moments, st.sampled_from(sorted(UNIT_SECONDS)))
def test_a_moment_lies_in_its_window_and_windows_tile_time(moment: datetime, unit: str) -> None:
    window = window_at(unit, moment)
    assert window.start <= moment.timestamp() < window.end
    assert window_at(unit, datetime.fromtimestamp(window.end, UTC)).start == window.end
    assert window.start % UNIT_SECONDS[unit] == 0


def test_remaining_time_ends_at_zero() -> None:
    window = Window(start=100, length=60)
    assert window.remaining(datetime.fromtimestamp(130.5, UTC)) == pytest.approx(29.5)
    assert window.remaining(datetime.fromtimestamp(1000, UTC)) == 0


def test_an_unknown_unit_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        window_at("fortnight", datetime.now(UTC) + timedelta())
