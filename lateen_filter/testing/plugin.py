"""The pytest plugin: the fixture `filter_host`, and `--envoy`. Loaded wherever Lateen is installed, so it imports late."""

# ruff: noqa: PLC0415
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from filters.testing.envoy import EnvoyPool
    from filters.testing.hosts import FilterHost, FilterHostFactory

CACHE = "lateen-filter"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the kit."""
    group = parser.getgroup("lateen", "Envoy filters in Python")
    group.addoption(
        "--envoy", action="store_true", help="run filters as the linked module in a real Envoy, not in the fake host"
    )
    group.addoption(
        "--filter-source",
        metavar="SOURCE",
        help="with --envoy, what to build: as `lateen filter build`, or a .wasm; default: where the class is defined",
    )


@pytest.fixture(scope="session")
def filter_host_kind(request: pytest.FixtureRequest) -> str:
    """`fake` or `envoy`; override it to choose otherwise than by `--envoy`."""
    return "envoy" if request.config.getoption("--envoy") else "fake"


@pytest.fixture(scope="session")
def filter_source(request: pytest.FixtureRequest) -> str | None:
    """What `--envoy` builds; override it for a source other than the file that defines the class."""
    found = request.config.getoption("--filter-source")
    return None if found is None else str(found)


@pytest.fixture(scope="session")
def filter_envoys() -> "Iterator[EnvoyPool]":
    """The Envoys of this run."""
    from filters.testing.envoy import EnvoyPool

    pool = EnvoyPool()
    yield pool
    pool.close()


@pytest.fixture
def fake_filter_host() -> "Iterator[FilterHostFactory]":
    """`filter_host` on the fake, whatever was chosen."""
    from filters.testing.fake import FakeHost

    with _closing() as hosts:

        def make(*arguments: Any, **options: Any) -> "FilterHost":  # noqa: ANN401  (the factory's signature)
            hosts.append(FakeHost(*arguments, **options))
            return hosts[-1]

        yield make


@pytest.fixture
def envoy_filter_host(
    request: pytest.FixtureRequest, filter_source: str | None, filter_envoys: "EnvoyPool"
) -> "Iterator[FilterHostFactory]":
    """`filter_host` on Envoy, whatever was chosen."""
    from filters.testing.building import module_of
    from filters.testing.envoy import EnvoyHost

    cache = _cache(request.config)
    with _closing() as hosts:

        def make(kind: Any, *arguments: Any, **options: Any) -> "FilterHost":  # noqa: ANN401  (the factory's signature)
            module = module_of(kind, filter_source, cache)
            hosts.append(EnvoyHost(filter_envoys, module, kind, *arguments, **options))
            return hosts[-1]

        yield make


@pytest.fixture
def filter_host(filter_host_kind: str, request: pytest.FixtureRequest) -> "FilterHostFactory":
    """Make hosts: `filter_host(MyFilter, {"path": "/x"}, upstream=..., clusters={...})`, see FilterHostFactory."""
    factory: FilterHostFactory = request.getfixturevalue(f"{filter_host_kind}_filter_host")
    return factory


@contextmanager
def _closing() -> "Iterator[list[FilterHost]]":
    hosts: list[FilterHost] = []
    try:
        yield hosts
    finally:
        for host in hosts:
            host.close()


def _cache(config: pytest.Config) -> Path:
    cache: pytest.Cache | None = getattr(config, "cache", None)
    if cache is None:  # -p no:cacheprovider
        return Path(tempfile.gettempdir(), f"{CACHE}-{os.getuid()}")
    return cache.mkdir(CACHE)
