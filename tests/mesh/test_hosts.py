import pytest
from hypothesis import given
from hypothesis import strategies as st

from lateen.mesh.hosts import HostIndex, covers, fqdn, intersect, most_specific, short_names, similar, specificity


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("reviews", "reviews.shop.svc.cluster.local"),
        ("Reviews", "reviews.shop.svc.cluster.local"),
        ("reviews.other", "reviews.other"),
        ("www.google.com", "www.google.com"),
        ("*", "*"),
        ("*.com", "*.com"),
        ("", ""),
        ("fd00::1", "fd00::1"),
        ("10.0.0.1", "10.0.0.1"),
    ],
)
def test_only_names_without_a_dot_expand(host: str, expected: str) -> None:
    assert fqdn(host, "shop") == expected


@pytest.mark.parametrize(
    ("pattern", "host", "expected"),
    [
        ("a.com", "a.com", True),
        ("A.com", "a.COM", True),
        ("a.com", "b.com", False),
        ("*", "a.com", True),
        ("*", "*.com", True),
        ("*.com", "a.com", True),
        ("*.com", "a.b.com", True),
        ("*.a.com", "a.com", False),
        ("*.a.com", ".a.com", False),
        ("*.com", "*.a.com", True),
        ("*.a.com", "*.com", False),
        ("*.a.com", "*.a.com", True),
        ("*-eu.a.com", "x-eu.a.com", True),
        ("a.com", "*.com", False),
    ],
)
def test_covers(pattern: str, host: str, expected: bool) -> None:
    assert covers(pattern, host) is expected


def test_the_most_specific_pattern_is_exact_then_longest() -> None:
    patterns = ["*", "*.com", "*.a.com", "x.a.com"]
    assert most_specific("x.a.com", patterns) == "x.a.com"
    assert most_specific("y.a.com", patterns) == "*.a.com"
    assert most_specific("b.com", patterns) == "*.com"
    assert most_specific("b.org", patterns) == "*"
    assert most_specific("b.org", ["*.com"]) is None


def test_intersection_is_the_narrower_pattern() -> None:
    assert intersect("*", "a.com") == "a.com"
    assert intersect("*.a.com", "*.com") == "*.a.com"
    assert intersect("a.com", "b.com") is None


def test_short_names_depend_on_the_client() -> None:
    assert short_names("a.n.svc.cluster.local", "n") == ("a", "a.n", "a.n.svc")
    assert short_names("a.n.svc.cluster.local", "m") == ("a.n", "a.n.svc")
    assert short_names("www.google.com", "n") == ()
    assert short_names("svc.cluster.local", "n") == ()


def test_similar_finds_a_slip_and_nothing_else() -> None:
    assert similar("reveiws", ["reviews", "ratings"]) == "reviews"
    assert similar("unrelated", ["reviews", "ratings"]) == ""


_HOST = st.lists(st.sampled_from(["a", "b", "*"]), min_size=1, max_size=3).map(
    lambda parts: ".".join([parts[0], *("a" if part == "*" else part for part in parts[1:])])
)


@given(st.lists(_HOST, max_size=8), _HOST)
def test_the_index_agrees_with_a_search_of_all_patterns(patterns: list[str], host: str) -> None:
    index = HostIndex((pattern, number) for number, pattern in enumerate(patterns))
    covering = sorted({p for p in patterns if covers(p, host)}, key=specificity, reverse=True)
    expected = [tuple(n for n, p in enumerate(patterns) if p == pattern) for pattern in covering]
    assert list(index.matches(host)) == expected
    assert index.most_specific(host) == (expected[0] if expected else ())
