"""The fake host by itself."""

import inspect

import pytest

from filters.sdk import host
from filters.testing.functions import Functions
from filters.testing.guest import FUNCTIONS
from lateen_filter import ConfigError
from lateen_filter.testing import FilterHostFactory
from tests.filters.envoy.behaviour.behaviour import Cases, Maintenance


@pytest.fixture(scope="session")
def filter_host_kind() -> str:
    """Here only the fake."""
    return "fake"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_of_the_host_is_there_with_its_parameters(name: str) -> None:
    real = inspect.signature(getattr(host, name))
    fake = inspect.signature(getattr(Functions, name))
    assert list(fake.parameters)[1:] == list(real.parameters)


def test_a_local_reply_and_a_request_that_passes(filter_host: FilterHostFactory) -> None:
    filtered = filter_host(Maintenance, {"message": "soon\n"})
    down = filtered.request("GET", "/down")
    assert (down.status, down.text, down.headers["retry-after"], down.upstream_request) == (503, "soon\n", "60", None)
    passed = filtered.request("GET", "/up?a=1")
    assert passed.upstream_request is not None
    assert (passed.status, passed.upstream_request.path) == (200, "/up?a=1")


def test_a_bad_configuration_is_refused(filter_host: FilterHostFactory) -> None:
    with pytest.raises(ConfigError) as caught:
        filter_host(Maintenance, {"mesage": ""})
    assert caught.value.problems[1] == "message: required"


def test_functions_are_back_after_a_callback(filter_host: FilterHostFactory) -> None:
    assert filter_host(Cases).request("GET", "/nothing").status == 200
    with pytest.raises(RuntimeError, match="no Envoy here"):
        host.log(host.INFO, "x")
