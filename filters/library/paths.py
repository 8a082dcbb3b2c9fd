"""Paths of a configuration: whole segments, or any ending after a `*`."""

from collections.abc import Sequence


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
