"""Configuration of the Envoy the kit runs: a bootstrap that follows two files, and the listeners and clusters in them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from filters.toolchain.local_envoy import TYPE, Placed, wasm_filter

Json: TypeAlias = dict[str, object]
ROUTE = "all"
UPSTREAM = "upstream"
WORKER_STATS = "filtered"
LOOPBACK = "127.0.0.1"
TRAILERS: Json = {"enable_trailers": True}
"""Over HTTP/1.1 Envoy drops them otherwise."""


class Certificates(NamedTuple):
    """PEM: what a listener for mutual TLS shows and trusts."""

    chain: str
    key: str
    trusted: str


def bootstrap(directory: Path) -> str:
    """An Envoy that takes its clusters and listeners from cds/ and lds/ in `directory`."""
    follow = {
        kind: {
            "path_config_source": {
                "path": str(directory / kind / "resources.json"),
                # One each: all files in a directory are read again when one of them is replaced.
                "watched_directory": {"path": str(directory / kind)},
            },
            "resource_api_version": "V3",
        }
        for kind in ("cds", "lds")
    }
    return json.dumps(
        {
            "node": {"id": "filter-tests", "cluster": "filter-tests"},
            "admin": {"address": address(0)},
            "dynamic_resources": {"cds_config": follow["cds"], "lds_config": follow["lds"]},
        }
    )


def discovery(kind: str, version: int, resources: Sequence[Json]) -> str:
    """A DiscoveryResponse as a file holds it."""
    name = {"cds": "cluster.v3.Cluster", "lds": "listener.v3.Listener"}[kind]
    typed = [{"@type": f"type.googleapis.com/envoy.config.{name}", **resource} for resource in resources]
    return json.dumps({"version_info": str(version), "resources": typed})


def address(port: int) -> Json:
    return {"socket_address": {"address": LOOPBACK, "port_value": port}}


def cluster(name: str, port: int, host: str = LOOPBACK) -> Json:
    """A cluster of one endpoint."""
    endpoint: Json = {"socket_address": {"address": host, "port_value": port}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": endpoint}}]}]
    return {
        "name": name,
        "type": "STATIC" if host == LOOPBACK else "STRICT_DNS",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": TYPE + "upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http_protocol_options": TRAILERS},
            }
        },
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
    }


def listener(
    name: str,
    module: Path,
    placed: Placed,
    vm_id: str,
    *,
    certificates: Certificates | None = None,
    port: int = 0,
    echo: str = "",
) -> Json:
    """A listener with one filter before the router; Envoy itself answers with the format `echo`, if there is one."""
    filtered = _filter(module, placed)
    filtered["typed_config"]["config"]["vm_config"]["vm_id"] = vm_id
    router: Json = {"name": "router", "typed_config": {"@type": TYPE + "filters.http.router.v3.Router"}}
    route: Json = {"name": ROUTE, "match": {"prefix": "/"}, "route": {"cluster": UPSTREAM}}
    if echo:
        body_format = {"text_format_source": {"inline_string": echo}}
        route = {
            "name": ROUTE,
            "match": {"prefix": "/"},
            "direct_response": {"status": 200, "body_format": body_format},
        }
    manager: Json = {
        "@type": TYPE + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": WORKER_STATS,
        "codec_type": "AUTO",
        "http_protocol_options": TRAILERS,
        "route_config": {"name": "routes", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [filtered, router],
    }
    chain: Json = {"filters": [{"name": "http", "typed_config": manager}]}
    if certificates is not None:
        chain["transport_socket"] = _tls(certificates)
    # Without it, two Envoys on one port would share its connections instead of one of them failing.
    return {"name": name, "address": address(port), "enable_reuse_port": not port, "filter_chains": [chain]}


def _filter(module: Path, placed: Placed) -> Any:  # noqa: ANN401  (JSON)
    return json.loads(json.dumps(wasm_filter(module, placed)))


def _tls(certificates: Certificates) -> Json:
    def inline(text: str) -> Json:
        return {"inline_string": text}

    return {
        "name": "tls",
        "typed_config": {
            "@type": TYPE + "transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": True,
            "common_tls_context": {
                "tls_certificates": [
                    {"certificate_chain": inline(certificates.chain), "private_key": inline(certificates.key)}
                ],
                "validation_context": {"trusted_ca": inline(certificates.trusted)},
            },
        },
    }
