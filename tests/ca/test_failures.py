import structlog
from structlog.testing import capture_logs

from ca.failures import FailureLog
from tests.fakes.clock import FakeClock


def test_the_rate_of_lines_is_bounded_and_the_rest_counted() -> None:
    structlog.reset_defaults()
    clock = FakeClock()
    with capture_logs() as lines:
        log = FailureLog(clock, limit=3, period=10)
        assert [log.warning("refused", reason="x") for _ in range(5)] == [True, True, True, False, False]
        clock.tick(10)
        assert log.warning("refused", reason="y")
    assert [line["event"] for line in lines] == ["refused"] * 3 + ["failures not logged", "refused"]
    assert lines[3]["count"] == 2
