"""Which regular expressions a configuration may hold."""

import re

import pytest

from filters.library.safe_regex import LONGEST_INPUT, LONGEST_PATTERN, UnsafePatternError, check_pattern, worst_case
from filters.library.waf_input import PIECE
from filters.library.waf_rules import RULES, Rule

BAD = [
    r"(a+)+$",
    r"(a*)*b",
    r"(a|a)*b",
    r"(a|ab)*c",
    r"(.*,)+x",
    r"(\w+\s?)*$",
    r"^(([a-z])+.)+[A-Z]([a-z])+$",
    r"(a{1,20}){1,20}b",
    r"(a?){40}a{40}",
    r".*foo.*bar",
    r"(\s*x\s*)+y",
    r"(x)\1",
    r"(?P<q>['\"]).*?(?P=q)",
    r"(|a)+b",
    r"\d*\d*\d*\d*x",
    r"(?:(?=a*!)a)*c",
    r"(?:(?:x|(?!a*!b))a)*c",
    r"(?i)(?:kk|\u212a)*x",
    r"(?i)(?:ss|\u017f)*x",
]
GOOD = [
    r"a+b",
    r"(?:[a-z]+,)*z",
    r"/api/v\d+/users/[^/]+",
    r"^/api/([^/]+)/users/([^/]+)$",
    r"^(/v[12])?/items/\d+(\?.*)?$",
    r"(\d{1,3}\.){3}\d{1,3}",
    r"(?i)(select|union)\s+all",
    r"[\w.]+@\w+\.\w+",
    r"^.*foo.*bar$",
    r"a{1000}b{1000}",
    r"(?:Bearer|Basic) [A-Za-z0-9._~+/=-]+",
    r"x(?=y)",
    r"\bfoo\b",
    "",
]
HOSTILE = [
    "a" * LONGEST_INPUT,
    "a" * (LONGEST_INPUT - 1) + "!",
    "a," * (LONGEST_INPUT // 2),
    "/" * LONGEST_INPUT,
    "1" * LONGEST_INPUT,
]


@pytest.mark.parametrize("pattern", BAD)
def test_what_may_backtrack_without_end_is_refused(pattern: str) -> None:
    with pytest.raises(UnsafePatternError):
        check_pattern(re.compile(pattern))


@pytest.mark.parametrize("pattern", GOOD)
def test_ordinary_patterns_are_accepted_and_do_end(pattern: str) -> None:
    compiled = re.compile(pattern)
    check_pattern(compiled)
    for text in HOSTILE:
        compiled.search(text)


def test_a_long_pattern_is_refused() -> None:
    with pytest.raises(UnsafePatternError, match="longer"):
        check_pattern(re.compile("a" * (LONGEST_PATTERN + 1)))
    check_pattern(re.compile("a" * LONGEST_PATTERN))


def test_the_estimate_grows_with_the_input() -> None:
    pattern = re.compile(".*foo")
    assert worst_case(pattern, 100).steps < worst_case(pattern, 1000).steps
    check_pattern(pattern, 1000)
    with pytest.raises(UnsafePatternError, match="bound its repeats"):
        check_pattern(pattern, 100_000)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_the_rules_of_the_firewall_are_within_the_bound(rule: Rule) -> None:
    check_pattern(rule.pattern, PIECE)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_the_rules_of_the_firewall_end_on_hostile_input(rule: Rule) -> None:
    """One that backtracks without end would not come back from this within the test's time."""
    for seed in ("' or ", "<a on", "select a,", "../", "; drop ", "(((", "or 1 ", "java", "'\" ", "${", "a", "1", " "):
        for end in ("", "!"):
            rule.pattern.search((seed * PIECE)[: PIECE - 1] + end)
