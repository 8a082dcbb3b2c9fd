"""Which resources of the mesh make Envoy refuse a route configuration, asked of an Envoy of our own: no proxy is bothered.

Used when nothing is known of what a proxy had before, as after a restart. Part by part, in halves, an `envoy --mode validate` (70 ms, or
0.3 s with 10,000 routes) says whether it takes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final

from google.protobuf.message import DecodeError

from lateen.controlplane.blobs import Blob
from lateen.controlplane.culprit import Part, keys_of, only, parts_of
from lateen.controlplane.envoy_trial import TrialUnavailableError, trial_listener, validate
from lateen.controlplane.plugin_process import ProcessTooSlowError
from lateen.controlplane.plugin_trial import reason
from lateen.envoyapi.envoy.config.bootstrap.v3 import bootstrap_pb2
from lateen.envoyapi.envoy.config.route.v3 import route_pb2
from lateen.envoyapi.envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm,
)
from lateen.mesh.metadata import ResourceKey

MAX_TRIALS: Final = 200
"""For one refused configuration. One mistake among 10,000 routes takes 15; many are found in several rounds."""

_SECONDS: Final = 30.0
_CPU_SECONDS: Final = 30
_RUNTIME: Final = {"re2.max_program_size.error_level": 32768}
"""As in the proxies' bootstrap: it decides which regular expressions are taken."""

RouteTrial = Callable[[route_pb2.RouteConfiguration], Awaitable[str]]
"""Why Envoy refuses it, empty when it takes it. TrialUnavailableError when that cannot be known."""

Guilty = tuple[frozenset[ResourceKey], str]
"""The resources behind one part that Envoy refuses by itself (one of them is to blame), and its words."""


async def guilty(refused: Blob, trial: RouteTrial, innocent: Collection[ResourceKey] = ()) -> tuple[Guilty, ...]:
    """Every part of a refused route configuration that is refused by itself, those of `innocent` resources apart.

    Empty if there is none: then the reason is not in the routes. TrialUnavailableError as in `RouteTrial`.
    """
    try:
        configuration = route_pb2.RouteConfiguration.FromString(refused.data)
    except DecodeError:
        return ()
    parts = [part for part in parts_of(configuration) if keys_of(part).isdisjoint(innocent)]
    search = _Search(configuration, trial)
    await search.among(parts, refused=False)
    return tuple((keys_of(part), words) for part, words in search.found if keys_of(part))


class _Search:
    def __init__(self, configuration: route_pb2.RouteConfiguration, trial: RouteTrial) -> None:
        self._configuration = configuration
        self._trial = trial
        self._left = MAX_TRIALS
        self.found: list[tuple[Part, str]] = []

    async def among(self, parts: Sequence[Part], *, refused: bool) -> None:
        """Find the guilty among some parts; `refused`: it is known that one is among them."""
        if not parts or not self._left:
            return
        if not refused or len(parts) == 1:
            self._left -= 1
            words = await self._trial(await asyncio.to_thread(only, self._configuration, frozenset(parts)))
            if not words:
                return
            if len(parts) == 1:
                self.found.append((parts[0], words))
                return
        half, before = len(parts) // 2, len(self.found)
        await self.among(parts[:half], refused=False)
        await self.among(parts[half:], refused=len(self.found) == before)


async def try_routes(configuration: route_pb2.RouteConfiguration) -> str:
    """A `RouteTrial` with the real Envoy, bounded in time and CPU."""
    bootstrap = await asyncio.to_thread(trial_bootstrap, configuration)
    try:
        status, output = await validate(bootstrap, _SECONDS, cpu_seconds=_CPU_SECONDS)
    except (ProcessTooSlowError, OSError) as error:
        raise TrialUnavailableError(str(error)) from None
    if status == 0:
        return ""
    # Without words of its own it has died of something else: nobody may be blamed for that.
    if not (words := reason(output)):
        raise TrialUnavailableError(f"envoy ended with status {status}")
    return words


def trial_bootstrap(configuration: route_pb2.RouteConfiguration) -> bootstrap_pb2.Bootstrap:
    """A bootstrap with a listener that has these routes."""
    manager = hcm.HttpConnectionManager(stat_prefix="trial", route_config=configuration)
    if not configuration.HasField("validate_clusters"):
        manager.route_config.validate_clusters.value = False  # what it means when it comes by RDS
    message = trial_listener(manager)
    message.layered_runtime.layers.add(name="static").static_layer.update(_RUNTIME)
    return message
