"""A real Envoy that runs the native filters of many policies at once: one route for each, chosen by a header. And requests to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from lateen.controlplane.authorization import http_rules
from lateen.controlplane.native_jwt import jwt_filter
from lateen.controlplane.native_rbac import steps
from lateen.controlplane.protos import address, packed
from lateen.envoyapi.envoy.config.bootstrap.v3 import bootstrap_pb2
from lateen.envoyapi.envoy.config.core.v3 import base_pb2
from lateen.envoyapi.envoy.config.listener.v3 import listener_components_pb2 as lc
from lateen.envoyapi.envoy.config.listener.v3 import listener_pb2
from lateen.envoyapi.envoy.config.route.v3 import route_components_pb2 as rc
from lateen.envoyapi.envoy.config.route.v3 import route_pb2
from lateen.envoyapi.envoy.extensions.filters.http.rbac.v3 import rbac_pb2
from lateen.envoyapi.envoy.extensions.filters.http.router.v3 import router_pb2
from lateen.envoyapi.envoy.extensions.filters.http.set_metadata.v3 import set_metadata_pb2
from lateen.envoyapi.envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from lateen.envoyapi.envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm,
)
from lateen.envoyapi.envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from lateen.jwks.keys import parse_jwks
from lateen.mesh.requestauthentication import RequestAuthenticationSpec
from lateen.policy.claims import verified_claims
from lateen.policy.compile import PolicyOrigin, PolicySet
from lateen.policy.request import CheckInput, path_of, remote_address
from lateen.policy.tokens import compile_token_rules
from tests.controlplane.pki import Authority, Pair
from tests.controlplane.traffic import Running, free_port, lease, running_envoy

STEPS = ("deny", "allow", "audit")
METADATA: dict[str, Any] = {"k": "v", "l": ["v", 1], "n": 5}
"""Of the namespace `envoy.filters.x`, on every request."""
_KEY = ec.generate_private_key(ec.SECP256R1())
_JWKS = json.dumps({"keys": [json.loads(ECAlgorithm.to_jwk(_KEY.public_key()))]})
_TOKENS = compile_token_rules(
    [
        (
            PolicyOrigin("a", "tokens"),
            RequestAuthenticationSpec.model_validate(
                {"jwtRules": [{"jwks": _JWKS, "fromHeaders": [{"name": "x-token"}], "forwardOriginalToken": True}]}
            ),
        )
    ]
)


@dataclass(frozen=True)
class Asked:
    """A request that can be made: what of it a policy may look at."""

    principal: str = ""
    source: str = "127.0.0.1"
    sni: str = ""
    port: int = 0
    """Which of the two ports."""
    method: str = "GET"
    target: str = "/a"
    host: str = "a.com"
    forwarded_for: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    claims: str = ""
    """JSON; nothing is no token."""

    @property
    def connection(self) -> tuple[str, str, str, int]:
        """Requests alike in this can share a connection."""
        return self.principal, self.source, self.sni, self.port


class NativeEnvoy:
    """Policies by number, behind two ports that take plaintext and mutual TLS."""

    def __init__(self, folder: Path, principals: Sequence[str]) -> None:
        self.net = lease()
        self.address = f"{self.net}.1"
        self.ports = (free_port(self.address), free_port(self.address))
        self._folder = folder
        self._authority = Authority()
        self._server = self._authority.issue("spiffe://td1/ns/server/sa/server")
        self._pairs: Mapping[str, Path] = {p: self._written(p, self._authority.issue(p)) for p in principals}
        self._connections: dict[tuple[str, str, str, int], http.client.HTTPConnection] = {}
        self._tokens: dict[str, str] = {}

    def _written(self, principal: str, pair: Pair) -> Path:
        path = self._folder / f"{abs(hash(principal))}.pem"
        path.write_bytes(pair.certificate + pair.key)
        return path

    def input(self, asked: Asked) -> CheckInput:
        """What the decision is given for a request."""
        headers = {name.lower(): value for name, value in asked.headers}
        return CheckInput(
            http=True,
            principal=asked.principal,
            source_ip=asked.source,
            remote_ip=remote_address(asked.forwarded_for, 0, asked.source),
            destination_ip=self.address,
            destination_port=self.ports[asked.port],
            sni=asked.sni,
            method=asked.method,
            path=path_of(asked.target),
            host=asked.host.lower(),
            headers=headers,
            claims=verified_claims(json.loads(asked.claims)) if asked.claims else None,
            metadata={"envoy.filters.x": METADATA},
        )

    @contextlib.contextmanager
    def running(self, policies: Sequence[PolicySet], trust_domains: Sequence[str]) -> Iterator[Running]:
        """One Envoy with a route for each of the policies."""
        admin = free_port()
        config = self._bootstrap(policies, trust_domains, admin)
        with running_envoy(config, self._folder, admin) as started:
            try:
                yield started
            finally:
                for connection in self._connections.values():
                    connection.close()
                self._connections.clear()

    def status(self, number: int, asked: Asked) -> int:
        """The status of a request under the policies of that number."""
        fresh = asked.connection not in self._connections
        connection = self._connections.get(asked.connection) or self._connect(asked)
        try:
            return self._ask(connection, number, asked)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            if fresh:
                raise
            return self._ask(self._connect(asked), number, asked)

    def _connect(self, asked: Asked) -> http.client.HTTPConnection:
        old = self._connections.pop(asked.connection, None)
        if old is not None:
            old.close()
        connection = http.client.HTTPConnection(
            self.address, self.ports[asked.port], timeout=20, source_address=(asked.source, 0)
        )
        connection.connect()
        if asked.principal:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE  # the server's certificate is not what is tested here
            context.load_cert_chain(self._pairs[asked.principal])
            connection.sock = context.wrap_socket(connection.sock, server_hostname=asked.sni or None)
        self._connections[asked.connection] = connection
        return connection

    def _ask(self, connection: http.client.HTTPConnection, number: int, asked: Asked) -> int:
        connection.putrequest(asked.method, asked.target, skip_host=True, skip_accept_encoding=True)
        connection.putheader("host", asked.host)
        connection.putheader("x-case", str(number))
        for name, value in asked.headers:
            connection.putheader(name, value)
        if asked.forwarded_for:
            connection.putheader("x-forwarded-for", asked.forwarded_for)
        if asked.claims:
            connection.putheader("x-token", self._token(asked.claims))
        connection.endheaders()
        response = connection.getresponse()
        response.read()
        return response.status

    def _token(self, claims: str) -> str:
        if claims not in self._tokens:
            # Signed by hand: the library wants to know better than the test which claims a token has.
            self._tokens[claims] = jwt.PyJWS().encode(claims.encode(), _KEY, algorithm="ES256")
        return self._tokens[claims]

    def _bootstrap(
        self, policies: Sequence[PolicySet], trust_domains: Sequence[str], admin: int
    ) -> bootstrap_pb2.Bootstrap:
        result = bootstrap_pb2.Bootstrap()
        result.admin.address.CopyFrom(address("127.0.0.1", admin))
        result.layered_runtime.layers.add(name="static").static_layer.update(
            {"re2.max_program_size.error_level": 32768}
        )
        chain = self._manager([_route(i, some, trust_domains) for i, some in enumerate(policies)])
        for port in self.ports:
            result.static_resources.listeners.append(self._listener(port, chain))
        return result

    def _manager(self, routes: Sequence[rc.Route]) -> lc.Filter:
        metadata = set_metadata_pb2.Config()
        metadata.metadata.add(metadata_namespace="envoy.filters.x").value.update(METADATA)
        filters = [
            ("envoy.filters.http.set_metadata", metadata),
            ("envoy.filters.http.jwt_authn", jwt_filter(_TOKENS, lambda _: parse_jwks(_JWKS))),
            *((f"envoy.filters.http.rbac.{step}", rbac_pb2.RBAC()) for step in STEPS),
            ("envoy.filters.http.router", router_pb2.Router()),
        ]
        host = rc.VirtualHost(name="all", domains=["*"], routes=routes)
        manager = hcm.HttpConnectionManager(
            stat_prefix="native",
            route_config=route_pb2.RouteConfiguration(name="all", virtual_hosts=[host]),
            http_filters=[hcm.HttpFilter(name=name, typed_config=packed(config)) for name, config in filters],
        )
        manager.use_remote_address.value = False
        manager.normalize_path.value = False
        return lc.Filter(name="envoy.filters.network.http_connection_manager", typed_config=packed(manager))

    def _listener(self, port: int, manager: lc.Filter) -> listener_pb2.Listener:
        context = tls_pb2.DownstreamTlsContext()
        context.require_client_certificate.value = True
        certificate = context.common_tls_context.tls_certificates.add()
        certificate.certificate_chain.inline_bytes = self._server.certificate
        certificate.private_key.inline_bytes = self._server.key
        context.common_tls_context.validation_context.trusted_ca.inline_bytes = self._authority.root
        plain, verified = lc.FilterChain(filters=[manager]), lc.FilterChain(filters=[manager])
        plain.filter_chain_match.transport_protocol = "raw_buffer"
        verified.filter_chain_match.transport_protocol = "tls"
        verified.transport_socket.CopyFrom(
            base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=packed(context))
        )
        inspector = lc.ListenerFilter(
            name="envoy.filters.listener.tls_inspector", typed_config=packed(tls_inspector_pb2.TlsInspector())
        )
        return listener_pb2.Listener(
            name=str(port),
            address=address(self.address, port),
            filter_chains=[plain, verified],
            listener_filters=[inspector],
        )


def _route(number: int, policies: PolicySet, trust_domains: Sequence[str]) -> rc.Route:
    route = rc.Route(match=rc.RouteMatch(prefix="/"), direct_response=rc.DirectResponseAction(status=200))
    chosen = route.match.headers.add(name="x-case")
    chosen.string_match.exact = str(number)
    made = {step.name: http_rules(step) for step in steps(policies, trust_domains, http=True)}
    for step in STEPS:
        config = rbac_pb2.RBACPerRoute(rbac=made.get(step, rbac_pb2.RBAC()))
        route.typed_per_filter_config[f"envoy.filters.http.rbac.{step}"].CopyFrom(packed(config))
    return route
