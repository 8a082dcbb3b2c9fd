"""An Envoy of our own that is asked whether it takes a bootstrap, before any proxy sees what is in it: `envoy --mode validate`."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from lateen.controlplane.plugin_process import run_bounded
from lateen.controlplane.protos import packed
from lateen.envoy_binary import envoy_path
from lateen.envoyapi.envoy.config.bootstrap.v3 import bootstrap_pb2
from lateen.envoyapi.envoy.config.listener.v3 import listener_components_pb2 as lc
from lateen.envoyapi.envoy.extensions.filters.http.router.v3 import router_pb2
from lateen.envoyapi.envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm,
)

ENVIRONMENT: Final[Mapping[str, str]] = MappingProxyType({"PATH": os.defpath})
"""Of a trial: nothing of ours is its business."""


class TrialUnavailableError(Exception):
    """There is no Envoy here to try anything with."""


async def validate(
    bootstrap: bootstrap_pb2.Bootstrap, seconds: float, *, cpu_seconds: int, env: Mapping[str, str] = ENVIRONMENT
) -> tuple[int, str]:
    """The status of Envoy (0: it takes it) and the first 256 KiB of what it said.

    Raises TrialUnavailableError without an Envoy, ProcessTooSlowError after `seconds`, OSError when it cannot be started.
    """
    try:
        envoy = envoy_path()
    except FileNotFoundError as error:
        raise TrialUnavailableError(str(error)) from None
    with tempfile.TemporaryDirectory(prefix="lateen-trial-") as directory:
        config = Path(directory) / "envoy.pb"
        config.write_bytes(await asyncio.to_thread(bootstrap.SerializeToString))
        command = [str(envoy), "-c", str(config), "--mode", "validate"]
        command += ["--disable-hot-restart", "-l", "error", "--concurrency", "1"]
        return await run_bounded(command, seconds, cpu_seconds=cpu_seconds, env=env)


def trial_listener(manager: hcm.HttpConnectionManager, chain: lc.FilterChain | None = None) -> bootstrap_pb2.Bootstrap:
    """A bootstrap with one listener, on any free port: the filters of `chain`, then `manager` and a router. Both are changed."""
    chain = lc.FilterChain() if chain is None else chain
    manager.http_filters.add(name="router", typed_config=packed(router_pb2.Router()))
    chain.filters.add(name="http", typed_config=packed(manager))
    message = bootstrap_pb2.Bootstrap()
    message.node.id = message.node.cluster = "lateen-trial"
    listener = message.static_resources.listeners.add(name="trial", filter_chains=[chain])
    listener.address.socket_address.address, listener.address.socket_address.port_value = "127.0.0.1", 0
    return message
