"""Envoy without a mesh: the fast application behind everything we measure, and the proxy that we compare with."""

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from lateen.envoy_binary import envoy_path
from lateen.envoyapi.envoy.config.bootstrap.v3 import bootstrap_pb2
from lateen.envoyapi.envoy.config.cluster.v3 import cluster_pb2
from lateen.envoyapi.envoy.config.core.v3 import address_pb2, base_pb2
from lateen.envoyapi.envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from lateen.envoyapi.envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from lateen.envoyapi.envoy.config.route.v3 import route_components_pb2, route_pb2
from lateen.envoyapi.envoy.extensions.filters.http.router.v3 import router_pb2
from lateen.envoyapi.envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2

BODY = json.dumps({"items": [{"id": n, "name": f"item {n}"} for n in range(8)]}) + "\n"
_UPSTREAM = "upstream"


def application_bootstrap(host: str, port: int) -> bootstrap_pb2.Bootstrap:
    """An Envoy that answers every request itself, at once: the fastest application there is here."""
    action = route_components_pb2.DirectResponseAction(status=200, body=base_pb2.DataSource(inline_string=BODY))
    return _bootstrap(host, port, direct=action)


def proxy_bootstrap(host: str, port: int, upstream: tuple[str, int]) -> bootstrap_pb2.Bootstrap:
    """An Envoy that passes every request on to `upstream` in plaintext, with no filter but the router."""
    cluster = cluster_pb2.Cluster(
        name=_UPSTREAM,
        type=cluster_pb2.Cluster.STATIC,
        connect_timeout=Duration(seconds=5),
        load_assignment=endpoint_pb2.ClusterLoadAssignment(
            cluster_name=_UPSTREAM,
            endpoints=[
                endpoint_components_pb2.LocalityLbEndpoints(
                    lb_endpoints=[
                        endpoint_components_pb2.LbEndpoint(
                            endpoint=endpoint_components_pb2.Endpoint(address=_address(*upstream))
                        )
                    ]
                )
            ],
        ),
    )
    return _bootstrap(host, port, cluster=cluster)


def _bootstrap(
    host: str,
    port: int,
    *,
    direct: route_components_pb2.DirectResponseAction | None = None,
    cluster: cluster_pb2.Cluster | None = None,
) -> bootstrap_pb2.Bootstrap:
    forward = None if direct else route_components_pb2.RouteAction(cluster=_UPSTREAM)
    route = route_components_pb2.Route(
        match=route_components_pb2.RouteMatch(prefix="/"), direct_response=direct, route=forward
    )
    virtual_host = route_components_pb2.VirtualHost(name="all", domains=["*"], routes=[route])
    manager = http_connection_manager_pb2.HttpConnectionManager(
        stat_prefix="http",
        route_config=route_pb2.RouteConfiguration(name="all", virtual_hosts=[virtual_host]),
        http_filters=[
            http_connection_manager_pb2.HttpFilter(
                name="envoy.filters.http.router", typed_config=_any(router_pb2.Router())
            )
        ],
    )
    network_filter = listener_components_pb2.Filter(
        name="envoy.filters.network.http_connection_manager", typed_config=_any(manager)
    )
    listener = listener_pb2.Listener(
        name="http",
        address=_address(host, port),
        filter_chains=[listener_components_pb2.FilterChain(filters=[network_filter])],
    )
    return bootstrap_pb2.Bootstrap(
        node=base_pb2.Node(id="benchmark", cluster="benchmark"),
        static_resources=bootstrap_pb2.Bootstrap.StaticResources(
            listeners=[listener], clusters=[cluster] if cluster is not None else []
        ),
    )


def _address(host: str, port: int) -> address_pb2.Address:
    return address_pb2.Address(socket_address=address_pb2.SocketAddress(address=host, port_value=port))


def _any(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def command(bootstrap: bootstrap_pb2.Bootstrap, service: str, concurrency: int) -> list[str]:
    """The command line that runs it; `service` only marks the process."""
    config = json.dumps(MessageToDict(bootstrap, preserving_proto_field_name=True))
    return [
        str(envoy_path()),
        *("--config-yaml", config),  # JSON is YAML
        *("--service-cluster", service),
        *("--concurrency", str(concurrency)),
        *("--log-level", "error"),
        "--disable-hot-restart",
    ]


class PlainEnvoy:
    """A running Envoy of ours, ended with the `with` block."""

    def __init__(self, bootstrap: bootstrap_pb2.Bootstrap, service: str, concurrency: int) -> None:
        self._command = command(bootstrap, service, concurrency)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        """Start it; it may not listen yet."""
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, cwd=Path(os.sep)
        )
        return self

    def __exit__(self, *exception: object) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._log.close()
