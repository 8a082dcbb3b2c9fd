"""CPU time of small pieces of Python, compared in turns."""

import gc
import time
from collections.abc import Callable, Mapping

from benchmarks.statistics import Spread, spread


def cpu_per_call(cases: Mapping[str, Callable[[], object]], *, rounds: int, seconds: float) -> dict[str, Spread]:
    """Microseconds of CPU a call. Every round runs each case for about `seconds`, in turns, backwards every second time."""
    calls = {name: _calls(case, seconds) for name, case in cases.items()}
    found: dict[str, list[float]] = {name: [] for name in cases}
    names = list(cases)
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            found[name].append(_measure(cases[name], calls[name]) * 1e6 / calls[name])
    return {name: spread(values) for name, values in found.items()}


def _calls(case: Callable[[], object], seconds: float) -> int:
    calls = 1
    while (spent := _measure(case, calls)) < seconds / 4:
        calls *= 2
    return max(1, round(calls * seconds / max(spent, 1e-9)))


def _measure(case: Callable[[], object], calls: int) -> float:
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        start = time.process_time()
        for _ in range(calls):
            case()
        return time.process_time() - start
    finally:
        if collecting:
            gc.enable()
