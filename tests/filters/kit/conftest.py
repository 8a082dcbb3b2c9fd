"""Every test here that uses `filter_host` runs on both hosts."""

from collections.abc import Callable
from typing import Any

import pytest

from lateen_filter.testing import FilterHostFactory

ENVOY = [pytest.mark.e2e, pytest.mark.xdist_group("filters"), pytest.mark.timeout(600)]


@pytest.fixture(scope="session", params=["fake", pytest.param("envoy", marks=ENVOY)])
def filter_host_kind(request: pytest.FixtureRequest) -> str:
    """Both."""
    return str(request.param)


@pytest.fixture
def agreed(
    fake_filter_host: FilterHostFactory, envoy_filter_host: FilterHostFactory
) -> Callable[[Callable[[FilterHostFactory], Any]], Any]:
    """A function that asks both hosts and gives what both have said; for tests that use it, mark them `needs_both`."""

    def ask(question: Callable[[FilterHostFactory], Any]) -> Any:
        fake, envoy = question(fake_filter_host), question(envoy_filter_host)
        assert fake == envoy
        return envoy

    return ask
