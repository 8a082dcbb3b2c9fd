"""Is this a regular expression that Envoy (RE2) accepts? Asked before a push: one bad pattern makes Envoy refuse the whole resource."""

from __future__ import annotations

import functools
import re
import warnings
from typing import Protocol, cast

_MAX_PROGRAM = 32768  # runtime `re2.max_program_size.error_level` in our bootstrap, Istio's value
_MAX_LENGTH = 8192
_NOT_IN_RE2 = re.compile(
    r"""\\.|\[(?:\\.|[^\]\\])*\]|(?P<bad>
      \(\?(?:=|!|<=|<!|>|\(|P=|P>|\#|\||&|R|\d)     # look-around, atomic groups, conditions, references, comments
    | (?:[*+?]|\{\d+(?:,\d*)?\})\+                  # possessive quantifiers
    )""",
    re.VERBOSE,
)
_BACK_REFERENCE = re.compile(r"\\(?:\\|(?P<bad>[1-9]|[gk]<|[ZGKRX]))|\\.")
_REPEAT = re.compile(r"\\.|\{(\d+)(?:,(\d*))?\}")
_MAX_REPEAT = 1000
# Accepted by RE2 and unknown to Python's re: Unicode classes, \z \C \Q..\E, (?U), (?<name>): only a real RE2 can judge what is around them.
_ONLY_RE2 = re.compile(r"\\[pPzCQE]|\(\?[a-zA-Z]*U|\(\?<[a-zA-Z]|\(\?[a-zA-Z-]+[:)]|\[\[:")


class _Re2(Protocol):
    def compile(self, pattern: str) -> _Compiled: ...


class _Compiled(Protocol):
    programsize: int


@functools.cache
def _re2() -> _Re2 | None:
    """The real thing, when the optional package `google-re2` is installed."""
    try:
        import re2  # noqa: PLC0415  # type: ignore[import-untyped, unused-ignore] optional dependency
    except ImportError:
        return None
    return cast("_Re2", re2)


@functools.lru_cache(maxsize=4096)
def regex_error(pattern: str) -> str:
    """Why RE2 refuses `pattern`; empty when it does not."""
    if len(pattern) > _MAX_LENGTH:
        return f"regular expression of {len(pattern)} characters, the limit is {_MAX_LENGTH}"
    engine = _re2()
    return _by_re2(engine, pattern) if engine is not None else by_syntax(pattern)


def _by_re2(engine: _Re2, pattern: str) -> str:
    try:
        size = engine.compile(pattern).programsize
    except Exception as error:  # noqa: BLE001 re2.error is not importable statically
        return f"regular expression {pattern!r} is not RE2: {_text(error)}"
    return "" if size <= _MAX_PROGRAM else f"regular expression {pattern!r} is too complex ({size} > {_MAX_PROGRAM})"


def _text(error: Exception) -> str:
    detail = error.args[0] if error.args else error
    return detail.decode(errors="replace") if isinstance(detail, bytes) else str(detail)


def by_syntax(pattern: str) -> str:
    """Judge without RE2: Python's parser, and the constructs that Python has and RE2 lacks."""
    for scanner in (_NOT_IN_RE2, _BACK_REFERENCE):
        for found in scanner.finditer(pattern):
            if found["bad"]:
                return f"regular expression {pattern!r} is not RE2: {found['bad']!r} is not supported"
    for found in _REPEAT.finditer(pattern):
        if any(int(count) > _MAX_REPEAT for count in found.groups() if count):
            return f"regular expression {pattern!r} is not RE2: repetition over {_MAX_REPEAT}"
    if _ONLY_RE2.search(pattern):
        return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return f"regular expression {pattern!r} is not RE2: {error}"
    return ""
