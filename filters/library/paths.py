"""Paths of a configuration: whole segments, or any ending after a `*`."""

import re
from collections.abc import Sequence

AMBIGUOUS = re.compile(r"//|\\|/\.\.?(?:[/;]|$)|%(?:00|25|2[ef]|5c)", re.IGNORECASE)
"""What servers may read in different ways: /health/..%2fadmin is /admin to some."""


def matches_path(path: str, patterns: Sequence[str]) -> bool:
    """Whether a path (without query) is under one of the patterns: "/api" matches /api and /api/x, not /apix; "/api*" all three.

    Nothing is decoded or normalized here: Envoy has done that, as path_normalization says.
    """
    for pattern in patterns:
        if pattern.endswith("*"):
            if path.startswith(pattern[:-1]):
                return True
        elif path == pattern or path.startswith(pattern if pattern.endswith("/") else pattern + "/"):
            return True
    return False


def excepts_path(path: str, patterns: Sequence[str]) -> bool:
    """Whether a path is under one of the patterns beyond doubt: what a rule is not to apply to."""
    return bool(patterns) and matches_path(path, patterns) and AMBIGUOUS.search(path) is None


def check_paths(field: str, patterns: Sequence[str]) -> None:
    """ValueError if one of the patterns of a field would never match."""
    for pattern in patterns:
        if (pattern[:1] != "/" and pattern != "*") or "*" in pattern[:-1] or "?" in pattern or "#" in pattern:
            raise ValueError(f"{field}: {pattern!r} is no path: it begins with /, and a * can only be its end")
