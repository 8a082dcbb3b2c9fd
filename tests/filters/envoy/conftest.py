"""One build and one Envoy for all tests here: both take seconds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from filters.toolchain.build import Built, build
from filters.toolchain.local_envoy import Chain, Placed
from tests.filters.envoy.application import application
from tests.filters.envoy.envoys import FilterEnvoy

SEED = 7
RULES = [{"path": "/api/v\\d+", "header": "x-rule"}]


@pytest.fixture(scope="session")
def built() -> Built:
    return build(Path(__file__).with_name("behaviour") / "behaviour.py", seed=SEED)


@pytest.fixture(scope="session")
def module(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("filters") / "behaviour.wasm"
    path.write_bytes(built.linked.module)
    return path


@pytest.fixture(scope="session")
def envoy(module: Path) -> Iterator[FilterEnvoy]:
    chains = [
        Chain([Placed("cases", {})], name="closed"),
        Chain([Placed("cases", {"lateen": {"onError": "open"}})], name="open"),
        Chain([Placed("requests", {})], name="short"),
        Chain([Placed("requests", {"lateen": {"onError": "open"}})], name="short-open"),
        Chain([Placed("ticker", {})], name="ticker"),
        Chain([Placed("phases", {})], name="phases"),
        Chain([Placed("phases", {"lateen": {"onError": "open"}})], name="phases-open"),
        Chain([Placed("only-response", {}), Placed("remembers", {})], name="others"),
        Chain([Placed("maintenance", {"message": "soon\n", "retryAfter": 5, "rules": RULES})], name="maintenance"),
        Chain([Placed("maintenance", {"message": "both\n"}), Placed("cases", {})], name="both"),
    ]
    with application() as upstream:
        running = FilterEnvoy(module, chains, upstream=upstream)
        yield running
        running.stop()
