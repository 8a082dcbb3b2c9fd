"""How long tests marked `fuzz` look for what nobody thought of: a budget in CI, as long as one likes with `make fuzz`."""

import os
from typing import Final

FACTOR: Final = int(os.environ.get("LATEEN_FUZZ_FACTOR", "1"))


def examples(budget: int) -> int:
    """The number of examples: `budget` in CI, LATEEN_FUZZ_FACTOR times as many when asked for."""
    return budget * FACTOR
