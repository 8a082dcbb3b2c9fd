"""Path normalization as the proxy does it before any policy looks at a path, for those who ask without a proxy.

The rules are those of Envoy's connection manager (`normalize_path`, `merge_slashes`, `path_with_escaped_slashes_action`).
"""

import re
from typing import Final

NONE: Final = "NONE"
_MERGING: Final = frozenset({"MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"})
_DECODING: Final = "DECODE_AND_MERGE_SLASHES"
_ESCAPE: Final = re.compile(r"%([0-9a-fA-F]{2})")
_UNRESERVED: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")
_SLASHES: Final = {"2F": "/", "5C": "\\"}


def normalized_path(path: str, mode: str) -> str:
    """A path without its query, as policies see it under the mesh's `pathNormalization` (DEFAULT is BASE)."""
    if mode == NONE:
        return path
    if mode == _DECODING:
        path = _ESCAPE.sub(lambda m: _SLASHES.get(m[1].upper(), m[0]), path)
    path = _without_dot_segments(_ESCAPE.sub(_unreserved, path).replace("\\", "/"))
    return re.sub("/{2,}", "/", path) if mode in _MERGING else path


def _unreserved(escape: re.Match[str]) -> str:
    """Escapes of characters that need none mean the characters; other escapes stay as they are written."""
    character = chr(int(escape[1], 16))
    return character if character in _UNRESERVED else escape[0]


def _without_dot_segments(path: str) -> str:
    """RFC 3986, 5.2.4, for paths that begin with a slash."""
    if not path.startswith("/"):
        return path
    kept: list[str] = []
    segments = path[1:].split("/")
    for segment in segments:
        if segment == "..":
            kept = kept[:-1]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in {".", ".."}:
        kept.append("")
    return "/" + "/".join(kept)
