"""Small constructors of protobuf's well-known values and of the pieces every Envoy resource carries."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from google.protobuf import any_pb2, duration_pb2, json_format, struct_pb2, wrappers_pb2
from google.protobuf.message import Message

from lateen.controlplane import names
from lateen.envoyapi.envoy.config.core.v3 import address_pb2, base_pb2, config_source_pb2, grpc_service_pb2
from lateen.envoyapi.envoy.type.v3 import percent_pb2
from lateen.mesh.kinds import ResourceKey

ZERO = timedelta()
MAX_UINT32 = 2**32 - 1
_MILLION = 1_000_000


def packed(message: Message) -> any_pb2.Any:
    """Pack into an Any, deterministically."""
    result = any_pb2.Any()
    result.Pack(message, deterministic=True)
    return result


def duration(value: timedelta) -> duration_pb2.Duration:
    """A protobuf Duration of the same length."""
    result = duration_pb2.Duration()
    result.FromTimedelta(value)
    return result


def uint32(value: int) -> wrappers_pb2.UInt32Value:
    """A wrapped uint32; larger numbers stop at the largest."""
    return wrappers_pb2.UInt32Value(value=min(value, MAX_UINT32))


def boolean(*, value: bool) -> wrappers_pb2.BoolValue:
    """A wrapped bool."""
    return wrappers_pb2.BoolValue(value=value)


TRUE = boolean(value=True)
FALSE = boolean(value=False)


def metadata(origins: Iterable[ResourceKey], **namespaces: Mapping[str, Any]) -> base_pb2.Metadata:
    """Where a resource comes from, as `filter_metadata.lateen.origin`, and whatever else its readers need."""
    result = base_pb2.Metadata()
    origin = ",".join(dict.fromkeys(str(key) for key in origins))
    if origin:
        result.filter_metadata[names.METADATA_NAMESPACE].fields["origin"].string_value = origin
    for namespace, values in namespaces.items():
        result.filter_metadata[namespace].CopyFrom(struct(values))
    return result


def struct(values: Mapping[str, Any]) -> struct_pb2.Struct:
    """A protobuf Struct."""
    result = struct_pb2.Struct()
    for key, value in values.items():
        if isinstance(value, str):  # nearly all of them; ParseDict is many times slower
            result.fields[key].string_value = value
        else:
            json_format.ParseDict(value, result.fields[key])
    return result


def percent(value: float) -> percent_pb2.FractionalPercent:
    """A percentage with Istio's precision of one millionth."""
    return percent_pb2.FractionalPercent(
        numerator=min(_MILLION, round(value * 10_000)), denominator=percent_pb2.FractionalPercent.MILLION
    )


def runtime_percent(value: float) -> base_pb2.RuntimeFractionalPercent:
    """A percentage where Envoy would also take a runtime key."""
    return base_pb2.RuntimeFractionalPercent(default_value=percent(value))


def address(host: str, port: int) -> address_pb2.Address:
    """A TCP address, or a pipe when `host` is `unix://PATH`."""
    if host.startswith("unix://"):
        return address_pb2.Address(pipe=address_pb2.Pipe(path=host.removeprefix("unix://")))
    return address_pb2.Address(socket_address=address_pb2.SocketAddress(address=host, port_value=port))


@functools.cache  # shared: wherever it is set it is copied, and nobody edits it
def ads() -> config_source_pb2.ConfigSource:
    """Delivered over the proxy's ADS stream; waited for without limit, so that a slow push is never an empty resource."""
    return config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(),
        resource_api_version=config_source_pb2.V3,
        initial_fetch_timeout=duration(ZERO),
    )


@functools.cache  # as above
def sds() -> config_source_pb2.ConfigSource:
    """Delivered by the agent beside the proxy, over the bootstrap's cluster `sds-grpc`."""
    agent = grpc_service_pb2.GrpcService(
        envoy_grpc=grpc_service_pb2.GrpcService.EnvoyGrpc(cluster_name=names.SDS_CLUSTER)
    )
    return config_source_pb2.ConfigSource(
        api_config_source=config_source_pb2.ApiConfigSource(
            api_type=config_source_pb2.ApiConfigSource.GRPC,
            transport_api_version=config_source_pb2.V3,
            grpc_services=[agent],
            set_node_on_first_message_only=True,
        ),
        resource_api_version=config_source_pb2.V3,
        initial_fetch_timeout=duration(ZERO),
    )
