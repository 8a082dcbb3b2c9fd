"""Bootstrap of an Envoy that runs one module: for `lateen filter run` and for tests."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

Json: TypeAlias = dict[str, object]
TYPE = "type.googleapis.com/envoy.extensions."
RELEASE_BYTES = 100 << 20
ECHO = "echo"
UPSTREAM = "upstream"


class Placed(NamedTuple):
    """A filter in a chain: its name in the module and its configuration."""

    name: str
    config: Mapping[str, object]


class Chain(NamedTuple):
    """A listener and the filters its requests pass."""

    filters: Sequence[Placed]
    port: int = 0
    name: str = "filtered"


def bootstrap(
    module: Path, chains: Sequence[Chain], *, upstream: tuple[str, int] | None = None, echo_path: str = ""
) -> str:
    """JSON of the bootstrap. Without an upstream, Envoy itself answers; `echo_path` is a Unix socket for that."""
    endpoint: Json = {"pipe": {"path": echo_path}} if upstream is None else _address(*upstream)
    listeners = []
    for chain in chains:
        http_filters = [wasm_filter(module, placed) for placed in chain.filters]
        listeners.append(_listener(chain.name, _address("127.0.0.1", chain.port), http_filters, _routed()))
    if upstream is None:
        listeners.append(_listener(ECHO, endpoint, [], _echo()))
    return json.dumps(
        {
            "admin": {"address": _address("127.0.0.1", 0)},
            # What compiling a module has freed goes back to the system: some 35 MB.
            "memory_allocator_manager": {"bytes_to_release": RELEASE_BYTES, "memory_release_interval": "0.5s"},
            "static_resources": {"listeners": listeners, "clusters": [_cluster(UPSTREAM, endpoint)]},
        },
        indent=1,
    )


def wasm_filter(module: Path, placed: Placed) -> Json:
    """One filter of an HTTP connection manager. All filters with the same module and vm_id share a VM."""
    return {
        "name": placed.name,
        "typed_config": {
            "@type": TYPE + "filters.http.wasm.v3.Wasm",
            "config": {
                "name": placed.name,
                "root_id": placed.name,
                # Without it, a filter that waits for the body would never get one.
                "allow_on_headers_stop_iteration": True,
                # A trap ends the VM: start another from the snapshot, do not answer 503 for ever.
                "failure_policy": "FAIL_RELOAD",
                "configuration": {
                    "@type": "type.googleapis.com/google.protobuf.StringValue",
                    "value": json.dumps(placed.config),
                },
                "vm_config": {
                    "vm_id": module.stem,
                    "runtime": "envoy.wasm.runtime.v8",
                    "code": {"local": {"filename": str(module)}},
                },
            },
        },
    }


def _address(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


def _cluster(name: str, endpoint: Json) -> Json:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": endpoint}}]}]
    return {
        "name": name,
        "connect_timeout": "2s",
        "type": "STRICT_DNS" if "socket_address" in endpoint else "STATIC",
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
    }


def listener(name: str, port: int, http_filters: Sequence[Json], host: Json) -> Json:
    """A listener on a port of this machine (0: a free one) with `http_filters` before the router."""
    return _listener(name, _address("127.0.0.1", port), http_filters, host)


def _listener(name: str, address: Json, http_filters: Sequence[Json], host: Json) -> Json:
    router: Json = {"name": "router", "typed_config": {"@type": TYPE + "filters.http.router.v3.Router"}}
    manager = {
        "@type": TYPE + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "codec_type": "AUTO",
        "route_config": {"virtual_hosts": [host]},
        "http_filters": [*http_filters, router],
    }
    return {
        "name": name,
        "address": address,
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def _routed() -> Json:
    return {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": UPSTREAM}}]}


def _echo() -> Json:
    """Answers with what it was asked: enough to see what a filter did to a request."""
    body = "%REQ(:METHOD)% %REQ(:PATH)% %REQ(X-RULE)%\n"
    answer: Json = {"status": 200, "body_format": {"text_format_source": {"inline_string": body}}}
    return {"name": ECHO, "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "direct_response": answer}]}
