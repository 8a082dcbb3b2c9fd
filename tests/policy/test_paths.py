"""Paths as policies see them."""

import pytest

from lateen.policy.paths import normalized_path


@pytest.mark.parametrize(
    ("mode", "path", "expected"),
    [
        ("NONE", "/a/../b//c\\d%2F", "/a/../b//c\\d%2F"),
        ("BASE", "/a/../b", "/b"),
        ("DEFAULT", "/a/./b/..", "/a/"),
        ("BASE", "/../../a", "/a"),
        ("BASE", "/a/%2e%2E/b", "/b"),
        ("BASE", "/a\\b", "/a/b"),
        ("BASE", "/%61%2Fb", "/a%2Fb"),
        ("BASE", "/a//b", "/a//b"),
        ("BASE", "/a/", "/a/"),
        ("BASE", "/a/%zz%", "/a/%zz%"),
        ("BASE", "*", "*"),
        ("MERGE_SLASHES", "/a//b///c", "/a/b/c"),
        ("MERGE_SLASHES", "/a%2F%2Fb", "/a%2F%2Fb"),
        ("DECODE_AND_MERGE_SLASHES", "/a%2F%5cb", "/a/b"),
        ("DECODE_AND_MERGE_SLASHES", "/a%2f..%2fb", "/b"),
    ],
)
def test_normalized(mode: str, path: str, expected: str) -> None:
    assert normalized_path(path, mode) == expected
