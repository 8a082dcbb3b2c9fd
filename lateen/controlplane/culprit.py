"""Which resource of the mesh a refused Envoy resource is to be blamed on: what is new in it since Envoy last accepted it. Pure."""

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from google.protobuf.message import DecodeError, Message

from lateen.controlplane.blobs import Blob
from lateen.controlplane.names import METADATA_NAMESPACE, RDS
from lateen.envoyapi.envoy.config.core.v3 import base_pb2
from lateen.envoyapi.envoy.config.route.v3 import route_components_pb2, route_pb2
from lateen.mesh.metadata import ResourceKey

_KEY_PARTS = 3


class Part(NamedTuple):
    """The routes of a configuration that have one origin, or the virtual hosts (without their routes) that have it."""

    of_routes: bool
    origin: str


def culprits(refused: Blob, accepted: Blob | None) -> tuple[ResourceKey, ...]:
    """The keys behind a refused resource, likeliest first.

    A route configuration holds the routes of many resources: those behind routes that the accepted version does not have come first.
    """
    if refused.type_url != RDS:
        return refused.origins
    try:
        old = set() if accepted is None else {data for data, _ in _parts(accepted)}
        new = [origin for data, origin in _parts(refused) if data not in old]
        every = [origin for _, origin in _parts(refused)]
    except DecodeError:
        return refused.origins
    return tuple(dict.fromkeys((*_keys(new), *refused.origins, *_keys(every))))


def suspects(refused: Blob, accepted: Blob | None) -> frozenset[ResourceKey]:
    """The resources behind what is new in a refused route configuration: one of them is to blame. Empty when that cannot be told."""
    if refused.type_url != RDS or accepted is None:
        return frozenset()
    try:
        old = {data for data, _ in _parts(accepted)}
        return frozenset(_keys(origin for data, origin in _parts(refused) if data not in old))
    except DecodeError:
        return frozenset()


def parts_of(configuration: route_pb2.RouteConfiguration) -> tuple[Part, ...]:
    """The parts it consists of, each once, in their order."""
    found: dict[Part, None] = {}
    for host in configuration.virtual_hosts:
        found.update((Part(of_routes=True, origin=_origin(route.metadata)), None) for route in host.routes)
        found[Part(of_routes=False, origin=_origin(host.metadata))] = None
    return tuple(found)


def keys_of(part: Part) -> frozenset[ResourceKey]:
    """The resources of the mesh behind it; none behind what is ours."""
    return frozenset(_keys([part.origin]))


def only(configuration: route_pb2.RouteConfiguration, parts: Collection[Part]) -> route_pb2.RouteConfiguration:
    """The same with only these parts. Routes without their virtual host are in one of no other content."""
    result = route_pb2.RouteConfiguration()
    result.CopyFrom(configuration)
    del result.virtual_hosts[:]
    for number, host in enumerate(configuration.virtual_hosts):
        routes = [r for r in host.routes if Part(of_routes=True, origin=_origin(r.metadata)) in parts]
        if Part(of_routes=False, origin=_origin(host.metadata)) in parts:
            kept = result.virtual_hosts.add()
            kept.CopyFrom(host)
            del kept.routes[:]
        elif routes:
            kept = result.virtual_hosts.add(name=host.name, domains=[f"{number}.invalid"])
        else:
            continue
        kept.routes.extend(routes)
    return result


def _parts(blob: Blob) -> Iterator[tuple[bytes, str]]:
    """Each route, and each virtual host without its routes, with the origin written into it. Routes first: they are more precise."""
    configuration = route_pb2.RouteConfiguration.FromString(blob.data)
    for host in configuration.virtual_hosts:
        for route in host.routes:
            yield _bytes(route), _origin(route.metadata)
    for host in configuration.virtual_hosts:
        bare = route_components_pb2.VirtualHost()
        bare.CopyFrom(host)
        del bare.routes[:]
        yield _bytes(bare), _origin(host.metadata)


def _bytes(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def _origin(metadata: base_pb2.Metadata) -> str:
    ours = metadata.filter_metadata.get(METADATA_NAMESPACE)
    return ours.fields["origin"].string_value if ours is not None and "origin" in ours.fields else ""


def _keys(origins: Iterable[str]) -> Iterator[ResourceKey]:
    for text in origins:
        for key in text.split(","):
            parts = key.split("/")
            if len(parts) == _KEY_PARTS:
                yield ResourceKey(*parts)
