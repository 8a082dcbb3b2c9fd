"""The judge must be able to say no."""

from collections.abc import Callable

import pytest


def test_envoy_accepts_an_empty_bootstrap(validate_envoy: Callable[[str], None]) -> None:
    validate_envoy('{"node": {"id": "a", "cluster": "b"}}')


def test_envoy_says_why_it_refuses(validate_envoy: Callable[[str], None]) -> None:
    with pytest.raises(AssertionError, match="'lisener'"):
        validate_envoy('{"static_resources": {"lisener": []}}')
