"""A real Envoy that dials our ADS server, and the few Envoy resources the tests give it."""

import asyncio
import contextlib
import json
import random
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
from google.protobuf import any_pb2, duration_pb2, wrappers_pb2
from google.protobuf.message import Message

from lateen.controlplane.blobs import Blob, Blobs
from lateen.controlplane.names import CDS, EDS, LDS, RDS
from lateen.envoy_binary import envoy_path
from lateen.envoyapi.envoy.config.cluster.v3 import cluster_pb2
from lateen.envoyapi.envoy.config.core.v3 import address_pb2, config_source_pb2
from lateen.envoyapi.envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from lateen.envoyapi.envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from lateen.envoyapi.envoy.config.route.v3 import route_components_pb2, route_pb2
from lateen.envoyapi.envoy.extensions.filters.http.router.v3 import router_pb2
from lateen.envoyapi.envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from lateen.mesh.kinds import ResourceKey
from tests.controlplane.pki import CONTROL_PLANE, Authority
from tests.controlplane.xds_client import node

BLOBS = Blobs()
ADS = config_source_pb2.ConfigSource(ads={}, resource_api_version=config_source_pb2.ApiVersion.V3)


def any_of(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def address(host: str, port: int) -> address_pb2.Address:
    return address_pb2.Address(socket_address=address_pb2.SocketAddress(address=host, port_value=port))


def cluster(name: str, timeout_ms: int = 1000) -> Blob:
    message = cluster_pb2.Cluster(
        name=name,
        type=cluster_pb2.Cluster.EDS,
        eds_cluster_config=cluster_pb2.Cluster.EdsClusterConfig(eds_config=ADS),
        connect_timeout=duration_pb2.Duration(seconds=timeout_ms // 1000, nanos=timeout_ms % 1000 * 1_000_000),
    )
    return BLOBS.intern(CDS, name, message)


def endpoints(name: str, port: int) -> Blob:
    endpoint = endpoint_components_pb2.Endpoint(address=address("127.0.0.1", port))
    lb_endpoint = endpoint_components_pb2.LbEndpoint(endpoint=endpoint)
    locality = endpoint_components_pb2.LocalityLbEndpoints(lb_endpoints=[lb_endpoint])
    return BLOBS.intern(EDS, name, endpoint_pb2.ClusterLoadAssignment(cluster_name=name, endpoints=[locality]))


def routes(name: str, to: str, header: str = "") -> Blob:
    route = route_components_pb2.Route(
        match=route_components_pb2.RouteMatch(prefix="/"), route=route_components_pb2.RouteAction(cluster=to)
    )
    if header:
        added = route.response_headers_to_add.add()
        added.header.key, added.header.value = "x-version", header
    host = route_components_pb2.VirtualHost(name="all", domains=["*"], routes=[route])
    return BLOBS.intern(RDS, name, route_pb2.RouteConfiguration(name=name, virtual_hosts=[host]))


def listener(
    name: str, host: str, port: int, route_name: str, origin: ResourceKey | None = None, *, stat_prefix: str = "in"
) -> Blob:
    """A listener with routes by RDS. Without `stat_prefix` Envoy refuses it."""
    manager = http_connection_manager_pb2.HttpConnectionManager(
        stat_prefix=stat_prefix,
        rds=http_connection_manager_pb2.Rds(config_source=ADS, route_config_name=route_name),
        http_filters=[
            http_connection_manager_pb2.HttpFilter(
                name="envoy.filters.http.router", typed_config=any_of(router_pb2.Router())
            )
        ],
    )
    chain = listener_components_pb2.FilterChain(
        filters=[
            listener_components_pb2.Filter(
                name="envoy.filters.network.http_connection_manager", typed_config=any_of(manager)
            )
        ]
    )
    message = listener_pb2.Listener(
        name=name,
        address=address(host, port),
        filter_chains=[chain],
        enable_reuse_port=wrappers_pb2.BoolValue(value=False),
    )
    return BLOBS.intern(LDS, name, message, [origin] if origin else [])


def own_address() -> str:
    """A loopback address nobody else is likely to use."""
    return f"127.{random.randint(64, 250)}.{random.randint(1, 254)}.{random.randint(1, 254)}"


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as sock:
        sock.bind((host, 0))
        return int(sock.getsockname()[1])


@contextlib.asynccontextmanager
async def upstream(answer: str) -> AsyncIterator[int]:
    """An HTTP server that always answers the same; yields its port."""
    body = answer.encode()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


class Envoy:
    """A running Envoy process."""

    def __init__(self, process: asyncio.subprocess.Process, host: str, admin: str, log: Path) -> None:
        self.process = process
        self.host = host
        self.admin = admin
        self.log = log

    async def clusters(self) -> set[str]:
        """Names of active dynamic clusters."""
        dump = await self._dump("dynamic_active_clusters")
        return {str(c["cluster"]["name"]) for c in dump}

    async def stat(self, name: str) -> int:
        async with httpx.AsyncClient(trust_env=False) as http:
            text = (await http.get(f"{self.admin}/stats", params={"filter": f"^{name}$"})).text
        return int(text.rpartition(": ")[2] or 0)

    async def _dump(self, resource: str) -> Sequence[dict[str, dict[str, object]]]:
        async with httpx.AsyncClient(trust_env=False) as http:
            value = (await http.get(f"{self.admin}/config_dump", params={"resource": resource})).json()
        found: Sequence[dict[str, dict[str, object]]] = value.get("configs", [])
        return found


def bootstrap(files: dict[str, str], ads_port: int, api_type: str, who_address: str) -> str:
    who = node(address=who_address)
    tls = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            "tls_certificates": [
                {"certificate_chain": {"filename": files["cert"]}, "private_key": {"filename": files["key"]}}
            ],
            "validation_context": {
                "trusted_ca": {"filename": files["root"]},
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": CONTROL_PLANE}}],
            },
        },
    }
    h2 = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    target = {"socket_address": {"address": "127.0.0.1", "port_value": ads_port}}
    return json.dumps(
        {
            "node": {"id": who.id, "cluster": who.cluster, "metadata": dict(who.metadata)},
            "admin": {"address": {"socket_address": {"address": who_address, "port_value": 0}}},
            "dynamic_resources": {
                "ads_config": {
                    "api_type": api_type,
                    "transport_api_version": "V3",
                    "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}],
                },
                "cds_config": {"ads": {}, "resource_api_version": "V3"},
                "lds_config": {"ads": {}, "resource_api_version": "V3"},
            },
            "static_resources": {
                "clusters": [
                    {
                        "name": "xds-grpc",
                        "type": "STATIC",
                        "typed_extension_protocol_options": {
                            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": h2
                        },
                        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
                        "load_assignment": {
                            "cluster_name": "xds-grpc",
                            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": target}}]}],
                        },
                    }
                ]
            },
        }
    )


@contextlib.asynccontextmanager
async def running_envoy(folder: Path, authority: Authority, ads_port: int, api_type: str) -> AsyncIterator[Envoy]:
    host = own_address()
    files = authority.write(folder, authority.workload("shop", "app"))
    config, admin, log = folder / "bootstrap.json", folder / "admin", folder / "envoy.log"
    config.write_text(bootstrap(files, ads_port, api_type, host))
    arguments = ["--config-path", str(config), "--admin-address-path", str(admin), "--log-path", str(log)]
    process = await asyncio.create_subprocess_exec(
        envoy_path(),
        *arguments,
        "--disable-hot-restart",
        "--concurrency",
        "1",
        "--log-level",
        "info",
        "--drain-time-s",
        "1",
    )
    try:
        async with asyncio.timeout(60):
            while not (admin.exists() and admin.read_text()):
                assert process.returncode is None, log.read_text()[-3000:]
                await asyncio.sleep(0.02)
        yield Envoy(process, host, f"http://{admin.read_text()}", log)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
