"""Tests here run on the fake host; those that take `either_host` run in a real Envoy too, all with one module."""

import pytest

from lateen_filter.testing import FilterHostFactory

ENVOY = [pytest.mark.e2e, pytest.mark.xdist_group("filters"), pytest.mark.timeout(600)]


@pytest.fixture(scope="session")
def filter_source() -> str:
    """One module for all."""
    return "library:all"


@pytest.fixture(params=["fake", pytest.param("envoy", marks=ENVOY)])
def either_host(request: pytest.FixtureRequest) -> FilterHostFactory:
    """Hosts of both kinds, one after the other: the same test, the same results."""
    factory: FilterHostFactory = request.getfixturevalue(f"{request.param}_filter_host")
    return factory
