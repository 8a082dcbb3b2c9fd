"""Options every filter has, under the key `lateen` of its configuration."""

from typing import Literal

from filters.sdk.config import FilterConfig

OPTIONS_KEY = "lateen"


LONGEST_CPU_MS = 10_000


class Options(FilterConfig):
    """What happens when the filter fails, and what it may use."""

    on_error: Literal["closed", "open"] = "closed"
    """Answer 500, or let the request pass unfiltered."""
    cpu_ms: int | None = None
    """Time a callback may take; for all filters of the VM. None: as built."""

    def validate(self) -> None:
        if self.cpu_ms is not None and not 1 <= self.cpu_ms <= LONGEST_CPU_MS:
            raise ValueError(f"cpuMs is {self.cpu_ms}: between 1 and {LONGEST_CPU_MS}")
