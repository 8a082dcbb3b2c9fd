"""The pytest plugin: the fixture `filter_host`, and `--envoy`. Loaded wherever Lateen is installed, so it imports late."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from filters.testing.hosts import FilterHost, FilterHostFactory


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the kit."""
    group = parser.getgroup("lateen", "Envoy filters in Python")
    group.addoption(
        "--envoy", action="store_true", help="run filters as the linked module in a real Envoy, not in the fake host"
    )


@pytest.fixture(scope="session")
def filter_host_kind(request: pytest.FixtureRequest) -> str:
    """`fake` or `envoy`; override it to choose otherwise than by `--envoy`."""
    return "envoy" if request.config.getoption("--envoy") else "fake"


@pytest.fixture
def filter_host(filter_host_kind: str) -> "Iterator[FilterHostFactory]":
    """Make hosts: the fixture is a FilterHostFactory."""
    from filters.testing.fake import FakeHost  # noqa: PLC0415

    if filter_host_kind != "fake":
        pytest.fail("--envoy: not yet")

    hosts: list[FilterHost] = []

    def make(*arguments, **options):  # type: ignore[no-untyped-def]  # noqa: ANN002, ANN003, ANN202  (the factory's signature)
        host = FakeHost(*arguments, **options)
        hosts.append(host)
        return host

    yield make
    for host in hosts:
        host.close()
