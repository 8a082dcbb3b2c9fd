"""A bootstrap with one HTTP and one TCP listener that ask the authorization service, as the control plane would have them."""

import json
from collections.abc import Sequence
from typing import Any

from google.protobuf import json_format

from lateen.controlplane.filters import check_retries
from tests.fakes.pki import Pair, TestAuthority

PROXY = "spiffe://cluster.local/ns/payments/sa/payments"
NAME = "lateen-extauthz.istio-system.svc"


def tls(authority: TestAuthority, pair: Pair, server: bool) -> dict[str, Any]:
    common = {
        "tls_certificates": [
            {"certificate_chain": {"inline_string": pair.certificate}, "private_key": {"inline_string": pair.key}}
        ],
        "validation_context": {"trusted_ca": {"inline_string": authority.root}},
        "alpn_protocols": ["http/1.1"] if server else ["h2"],
    }
    kind = "DownstreamTlsContext" if server else "UpstreamTlsContext"
    config = {
        "@type": f"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}",
        "common_tls_context": common,
    }
    return {
        "name": "tls",
        "typed_config": config | ({"require_client_certificate": False} if server else {"sni": NAME}),
    }


def envoy_config(
    authority: TestAuthority, target: str, *, port: int, tcp_port: int, authz: Sequence[int], app: int
) -> dict[str, Any]:
    def static(name: str, *at: int, **more: object) -> dict[str, Any]:
        addresses = [{"socket_address": {"address": "127.0.0.1", "port_value": number}} for number in at]
        endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}} for address in addresses]}]
        return {
            "name": name,
            "type": "STATIC",
            "load_assignment": {"cluster_name": name, "endpoints": endpoints},
            **more,
        }

    service = {
        "transport_api_version": "V3",
        "grpc_service": {
            "envoy_grpc": {"cluster_name": "authz"},
            "retry_policy": json.loads(json_format.MessageToJson(check_retries())),
            "timeout": "20s",
            "initial_metadata": [{"key": "x-lateen-target", "value": target}],
        },
        "failure_mode_allow": False,
        "include_tls_session": True,
    }
    extensions = "type.googleapis.com/envoy.extensions"
    http_filters = [
        {
            "name": "envoy.filters.http.ext_authz",
            "typed_config": {
                "@type": f"{extensions}.filters.http.ext_authz.v3.ExtAuthz",
                "status_on_error": {"code": "Forbidden"},
                **service,
            },
        },
        {"name": "router", "typed_config": {"@type": f"{extensions}.filters.http.router.v3.Router"}},
    ]
    metadata = "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:{})%"
    added = [
        {"header": {"key": f"x-meta-{name}", "value": metadata.format(path)}}
        for name, path in (("policy", "lateen:policy"), ("sub", "payload:sub"), ("scope", "payload:scope"))
    ]
    route = {"match": {"prefix": "/"}, "route": {"cluster": "app"}, "request_headers_to_add": added}
    hcm = {
        "@type": f"{extensions}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "normalize_path": True,
        "route_config": {"virtual_hosts": [{"name": "app", "domains": ["*"], "routes": [route]}]},
        "http_filters": http_filters,
        "access_log": [
            {
                "name": "log",
                "typed_config": {
                    "@type": f"{extensions}.access_loggers.stream.v3.StdoutAccessLog",
                    "log_format": {"json_format": {"code": "%RESPONSE_CODE%", "lateen": metadata.format("lateen")}},
                },
            }
        ],
    }
    tcp_filters = [
        {
            "name": "authz",
            "typed_config": {
                "@type": f"{extensions}.filters.network.ext_authz.v3.ExtAuthz",
                "stat_prefix": "t",
                **service,
            },
        },
        {
            "name": "tcp",
            "typed_config": {
                "@type": f"{extensions}.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": "t",
                "cluster": "app",
            },
        },
    ]
    server = tls(authority, authority.issue(PROXY, "payments"), server=True)

    def listener(name: str, at: int, filters: list[dict[str, Any]]) -> dict[str, Any]:
        address = {"socket_address": {"address": "127.0.0.1", "port_value": at}}
        return {"name": name, "address": address, "filter_chains": [{"filters": filters, "transport_socket": server}]}

    h2 = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": f"{extensions}.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    client = tls(authority, authority.issue(PROXY), server=False)
    return {
        "node": {"id": "test", "cluster": "test"},
        "static_resources": {
            "listeners": [
                listener("http", port, [{"name": "hcm", "typed_config": hcm}]),
                listener("tcp", tcp_port, tcp_filters),
            ],
            "clusters": [
                static("app", app),
                static(
                    "authz",
                    *authz,
                    circuit_breakers={"thresholds": [{"max_retries": 4294967295}]},
                    typed_extension_protocol_options=h2,
                    transport_socket=client,
                ),
            ],
        },
    }
