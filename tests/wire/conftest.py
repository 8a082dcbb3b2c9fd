"""Servers that the tests of a module share."""

import tempfile
from collections.abc import Iterator

import pytest

from tests.wire.running import Process, server
from tests.wire.serve import Options


@pytest.fixture(scope="module")
def wire() -> Iterator[Process]:
    """The test handlers on `lateen.wire`: a TCP port and a unix socket."""
    with (
        tempfile.TemporaryDirectory(prefix="wire") as directory,
        server(Options(addresses=("127.0.0.1:0", f"unix:{directory}/w.sock"))) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def grpcio() -> Iterator[Process]:
    """The same handlers on a grpcio server."""
    with server(Options(transport="grpcio")) as running:
        yield running
