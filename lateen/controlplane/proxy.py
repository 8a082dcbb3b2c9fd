"""A connected proxy as the translators see it: what its xDS node says about itself."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Mapping
from enum import StrEnum
from typing import Self

from google.protobuf import json_format

from lateen.envoyapi.envoy.config.core.v3.base_pb2 import Node

_ID_PARTS = 4


class ProxyType(StrEnum):
    """The first part of `node.id`."""

    SIDECAR = "sidecar"
    ROUTER = "router"
    SERVICE = "service"


class Mode(StrEnum):
    """Istio's interception modes that we implement: NONE is the loopback runner, REDIRECT the netns runner."""

    NONE = "NONE"
    REDIRECT = "REDIRECT"


@dataclasses.dataclass(frozen=True, slots=True)
class ProxyClass:
    """What outbound translation depends on: proxies of one class share every outbound resource."""

    namespace: str
    labels: tuple[tuple[str, str], ...]
    mode: Mode
    locality: str
    network: str


@dataclasses.dataclass(frozen=True, slots=True)
class Proxy:
    """One proxy. `address` is where peers reach it, `app_address` where its application listens."""

    id: str
    type: ProxyType
    name: str
    namespace: str
    address: str
    app_address: str = ""
    mode: Mode = Mode.NONE
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    service_account: str = "default"
    workload_name: str = ""
    modules_dir: str = ""
    """Where it can read the control plane's modules, on the same host; empty: nowhere."""
    build: str = ""
    """Its Envoy, as `REVISION/VERSION`."""

    @property
    def workload_key(self) -> str:
        """The `x-lateen-target` of a replica that is like its siblings; the view knows the others."""
        return f"{self.namespace}/{self.workload_name or self.name}"

    @classmethod
    def from_node(cls, node: Node) -> Self:
        """Read `node.id` and Istio's NodeMetadata; ValueError says what is wrong with them."""
        parts = node.id.split("~")
        if len(parts) != _ID_PARTS:
            raise ValueError(f"node id {node.id!r} is not type~ip~name.namespace~domain")
        kind, address, ident, _ = parts
        if kind not in set(ProxyType):
            raise ValueError(f"node id {node.id!r}: unknown proxy type {kind!r}")
        ipaddress.ip_address(address)
        name, dot, namespace = ident.rpartition(".")
        if not dot or not name or not namespace:
            raise ValueError(f"node id {node.id!r}: {ident!r} is not name.namespace")
        metadata = json_format.MessageToDict(node.metadata)
        return cls(
            id=node.id,
            type=ProxyType(kind),
            name=name,
            namespace=namespace,
            address=address,
            app_address=str(metadata.get("APP_ADDRESS") or "127.0.0.1"),
            mode=_mode(str(metadata.get("INTERCEPTION_MODE") or Mode.REDIRECT)),
            labels=_labels(metadata.get("LABELS")),
            service_account=str(metadata.get("SERVICE_ACCOUNT") or "default"),
            workload_name=str(metadata.get("WORKLOAD_NAME") or name),
            modules_dir=str(metadata.get("LATEEN_MODULES_DIR") or ""),
            build=_build(node),
        )


def _build(node: Node) -> str:
    """Empty where the node does not say which build it is."""
    if not node.HasField("user_agent_build_version"):
        return ""
    version = node.user_agent_build_version
    number = version.version
    revision = version.metadata.fields["revision.sha"].string_value if "revision.sha" in version.metadata.fields else ""
    return f"{revision}/{number.major_number}.{number.minor_number}.{number.patch}"


def _mode(text: str) -> Mode:
    if text not in set(Mode):
        raise ValueError(f"unknown INTERCEPTION_MODE {text!r}: use NONE or REDIRECT")
    return Mode(text)


def _labels(value: object) -> dict[str, str]:
    return {str(k): str(v) for k, v in sorted(value.items())} if isinstance(value, dict) else {}
