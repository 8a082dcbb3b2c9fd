"""Patterns that Envoy would refuse are refused here first, by RE2 itself or, without it, by syntax."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from lateen.controlplane.regexes import by_syntax, regex_error

_GOOD = [
    "/a/[0-9]+",
    ".*",
    "(?i)abc",
    r"\d{1,3}\.\w+",
    "(?P<n>a)|b",
    r"[(?=]",
    r"\(\?=",
    "a{2}",
    r"\\1",
    "x*?",
    "[*+]+",
    r"\pL+",
    "a|",
]
_BAD = ["(?=a)", "(?!a)", "(?<=a)b", "(?<!a)b", r"(a)\1", "(?>a)", "a*+", "a{1001}", "(", "[a", "(?P=n)", "*"]
_ENGINES = [by_syntax, *([regex_error] if find_spec("re2") else [])]


@pytest.mark.parametrize("judge", _ENGINES, ids=lambda judge: judge.__name__)
@pytest.mark.parametrize("pattern", _GOOD)
def test_accepted(judge: object, pattern: str) -> None:
    assert callable(judge)
    assert judge(pattern) == ""


@pytest.mark.parametrize("judge", _ENGINES, ids=lambda judge: judge.__name__)
@pytest.mark.parametrize("pattern", _BAD)
def test_refused(judge: object, pattern: str) -> None:
    assert callable(judge)
    assert repr(pattern) in judge(pattern)


def test_length_is_bounded() -> None:
    assert "limit" in regex_error("a" * 10_000)
