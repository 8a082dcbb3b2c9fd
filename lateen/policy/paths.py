"""Path normalization as the proxy does it before any policy looks at a path, for those who ask without a proxy.

The rules are those of Envoy's connection manager (`normalize_path`, `merge_slashes`, `path_with_escaped_slashes_action`), which
tests/policy/test_paths.py asks a real Envoy about.
"""

import re
from typing import Final

from lateen.policy.request import path_of

NONE: Final = "NONE"
_MERGING: Final = frozenset({"MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"})
_DECODING: Final = "DECODE_AND_MERGE_SLASHES"
_ACCEPTED: Final = re.compile(r"/[!-~]*")
_ESCAPE: Final = re.compile(r"%([0-9a-fA-F]{2})")
_NO_ESCAPE: Final = re.compile(r"%(?![0-9a-fA-F]{2})")
_NEW_ESCAPE: Final = re.compile("\0(?=[0-9a-fA-F]{2})")
_DOTS_WITH_PARAMETERS: Final = re.compile(r"(?<=/)(\.\.?);[^/]*")
_UNRESERVED: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")
_SLASHES: Final = {"2F": "/", "5C": "\\"}
_ESCAPED: Final = str.maketrans({character: f"%{ord(character):02X}" for character in '"<>^`{|}'})


def normalized_path(target: str, mode: str) -> str | None:
    """The path of a request target, without its query, as policies see it under the mesh's `pathNormalization` (DEFAULT is BASE).

    None when the proxy answers 400 before any policy is asked: a target without a slash in front, with a fragment, or with anything
    but printable ASCII; and unless nothing is normalized, with `%00` in its path.
    """
    if _ACCEPTED.fullmatch(target) is None or "#" in target:
        return None
    path = path_of(target)
    if mode == NONE:
        return path
    if mode == _DECODING:
        path = _ESCAPE.sub(lambda m: _SLASHES.get(m[1].upper(), m[0]), path)
    if "%00" in path:
        return None
    path = _unescaped(_DOTS_WITH_PARAMETERS.sub(r"\1", path))
    path = _without_dot_segments(path.replace("\\", "/")).translate(_ESCAPED)
    return _merged(path) if mode in _MERGING else path


def _unescaped(path: str) -> str:
    """Without needless escapes. A percent sign that began none stays, but as `%25` where it would begin one now."""
    path = _ESCAPE.sub(_unreserved, _NO_ESCAPE.sub("\0", path))
    return _NEW_ESCAPE.sub("%25", path).replace("\0", "%")


def _unreserved(escape: re.Match[str]) -> str:
    """Escapes of characters that need none mean the characters; other escapes stay as they are written."""
    character = chr(int(escape[1], 16))
    return character if character in _UNRESERVED else escape[0]


def _without_dot_segments(path: str) -> str:
    """RFC 3986, 5.2.4, for paths that begin with a slash."""
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


def _merged(path: str) -> str:
    """Runs of slashes are one; a path of nothing else keeps two."""
    return re.sub("/{2,}", "/", path) if path.strip("/") else path[:2]
