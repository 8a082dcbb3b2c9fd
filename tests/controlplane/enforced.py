"""Many workloads behind one real Envoy, each with policies of its own, enforced by our service or by Envoy itself."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from extauthz.check import Checker
from extauthz.denials import Denials
from extauthz.metrics import Metrics
from extauthz.policies import Policies
from lateen.controlplane.bound_policies import workload_policies
from lateen.controlplane.snapshot import Snapshot
from lateen.envoyapi.envoy.service.ratelimit.v3 import rls_pb2
from lateen.jwks.keeper import KeyKeeper
from tests.controlplane.authorizers import GrpcAuthorizer
from tests.controlplane.manifests import documents, extauthz, static_entry
from tests.controlplane.pki import Authority
from tests.controlplane.traffic import Answer, Mesh, Running, Upstream, envoy, identity, lease

KEY = ec.generate_private_key(ec.SECP256R1())
JWKS = json.dumps({"keys": [json.loads(ECAlgorithm.to_jwk(KEY.public_key())) | {"kid": "k1"}]})
ISSUER = "https://issuer.test"
_TOKENS = {
    "jwtRules": [{"issuer": ISSUER, "jwks": JWKS, "outputClaimToHeaders": [{"header": "x-team", "claim": "team"}]}]
}
_SERVICES = documents(
    """
kind: MeshConfig
apiVersion: lateen.dev/v1alpha1
spec:
  enforcement: ENGINE
  MORE
  defaultConfig: {gatewayTopology: {numTrustedProxies: 1}}
  extensionProviders:
  - name: other
    envoyExtAuthzGrpc: {service: other.default.svc.cluster.local, port: 9000, timeout: 5s}
""",
    extauthz("NET.3"),
    static_entry(
        "lateen-ratelimit",
        "lateen-ratelimit.istio-system.svc.cluster.local",
        "NET.4",
        "grpc 8081",
        namespace="istio-system",
    ),
    static_entry("other", "other.default.svc.cluster.local", "NET.5", "grpc 9000"),
    """
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: only-ours, namespace: default}
spec: {egress: [{hosts: [istio-system/*]}]}
""",
)
_WORKLOAD = """
---
apiVersion: v1
kind: Service
metadata: {name: NAME, namespace: default}
spec: {selector: {app: NAME}, ports: [{name: http, port: 8080}, {name: tcp, port: 8082}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: NAME, namespace: default}
spec: {address: ADDRESS, labels: {app: NAME}, serviceAccount: server}
"""


@dataclass(frozen=True)
class Ask:
    """A request, or with `tcp` a connection on the TCP port; `peer` is the SPIFFE path of the client, nothing is plaintext."""

    expected: int
    peer: str = ""
    method: str = "GET"
    path: str = "/"
    host: str = "app.test"
    headers: Mapping[str, str] = field(default_factory=dict)
    token: Mapping[str, object] | str | None = None
    tcp: bool = False
    sni: str = "app.test"
    source: str = "127.0.0.1"


@dataclass(frozen=True)
class Case:
    """Policies of one workload, and what becomes of requests to it."""

    name: str
    asked: Sequence[Ask]
    policies: Sequence[Mapping[str, object]] = ()
    tokens: bool | Mapping[str, object] = False
    """Whether tokens are verified, or a RequestAuthentication's spec of the case's own."""
    limits: Mapping[str, object] | None = None
    dry_run: bool = False
    namespace: str = "default"
    """Of the policies."""
    mesh: str = ""
    """One more setting of the mesh, as a line of YAML."""


@dataclass(frozen=True)
class InSeconds:
    """A time for a claim, as seconds from when the token is made."""

    seconds: int


def token(claims: Mapping[str, object], **header: str) -> str:
    """Signed by the issuer's key, valid for an hour."""
    now = int(time.time())
    given = {name: now + value.seconds if isinstance(value, InSeconds) else value for name, value in claims.items()}
    return jwt.encode({"iss": ISSUER, "sub": "s", "exp": now + 3600, **given}, KEY, "ES256", {"kid": "k1", **header})


class Calls:
    """A gRPC server whose one method is a function of bytes."""

    def __init__(self, address: str, service: str, method: str, answer: Any) -> None:  # noqa: ANN401 a handler of gRPC's
        self._server = grpc.server(ThreadPoolExecutor(4))
        handler: Any = grpc.unary_unary_rpc_method_handler(answer)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        self._server.add_insecure_port(address)
        self._server.start()

    def close(self) -> None:
        self._server.stop(0).wait()


@dataclass
class Enforced:
    """The running whole."""

    engine: str
    net: str
    addresses: Mapping[str, str]
    folder: Path
    authority: Authority
    other: GrpcAuthorizer
    descriptors: list[rls_pb2.RateLimitRequest]
    proxy: Running
    metrics: Metrics

    def status(self, case: str, ask: Ask) -> int:
        """The status; of a TCP connection 200 when it is let through, and 0 where a connection is closed."""
        try:
            return self.tcp(case, ask) if ask.tcp else self.http(case, ask).status
        except (ssl.SSLError, ConnectionError):
            return 0

    def counted(self, name: str) -> int:
        """What Envoy's counters of that name have come to, whichever listener they are of."""
        lines = (line.rpartition(": ") for line in self.proxy.get_admin("/stats").splitlines())
        return sum(int(value) for key, _, value in lines if key.endswith(name))

    def http(self, case: str, ask: Ask) -> Answer:
        connection = http.client.HTTPConnection("unused")
        connection.sock = self._connect(case, 8080, ask)
        headers = dict(ask.headers)
        if ask.token is not None:
            headers["authorization"] = "Bearer " + (ask.token if isinstance(ask.token, str) else token(ask.token))
        try:
            connection.putrequest(ask.method, ask.path, skip_host=True, skip_accept_encoding=True)
            connection.putheader("host", ask.host)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def tcp(self, case: str, ask: Ask) -> int:
        received = b""
        with contextlib.suppress(ConnectionResetError), self._connect(case, 8082, ask) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            received = connection.recv(100)
        return int(received.split()[1]) if received else 0

    def _connect(self, case: str, port: int, ask: Ask) -> socket.socket:
        plain = socket.create_connection((self.addresses[case], port), timeout=20, source_address=(ask.source, 0))
        if not ask.peer:
            return plain
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # whose certificate the server has is not the question here
        context.set_alpn_protocols(["istio"])
        context.load_cert_chain(self._certificate(ask.peer))
        return context.wrap_socket(plain, server_hostname=ask.sni)

    def _certificate(self, peer: str) -> Path:
        path = self.folder / f"{peer.replace('/', '_')}.pem"
        if not path.exists():
            pair = self.authority.issue(f"spiffe://{peer}")
            path.write_bytes(pair.certificate + pair.key)
        return path


@contextlib.contextmanager
def enforced(engine: str, cases: Sequence[Case], folder: Path) -> Iterator[Enforced]:
    """A workload for each case, all of them behind one Envoy."""
    net, authority = lease(), Authority()
    addresses = {case.name: f"{net}.{20 + i}" for i, case in enumerate(cases)}
    texts = {case.mesh: _SERVICES.replace("ENGINE", engine).replace("MORE", case.mesh) for case in cases}
    for case in cases:
        texts[case.mesh] += _yaml(case, addresses[case.name])
    meshes = {more: Mesh(net, text=text) for more, text in texts.items()}
    seen: list[rls_pb2.RateLimitRequest] = []
    metrics = Metrics()

    def limited(data: bytes, _: grpc.ServicerContext) -> bytes:
        seen.append(rls_pb2.RateLimitRequest.FromString(data))
        return rls_pb2.RateLimitResponse(overall_code=rls_pb2.RateLimitResponse.OK).SerializeToString()

    with contextlib.ExitStack() as stack:
        for port in (8080, 8082):
            stack.callback(Upstream("app", (f"{net}.12", port)).close)
        check = _service(meshes.values(), metrics)
        auth, limits = "envoy.service.auth.v3.Authorization", "envoy.service.ratelimit.v3.RateLimitService"
        stack.callback(Calls(f"{net}.3:9191", auth, "Check", check).close)
        stack.callback(Calls(f"{net}.4:8081", limits, "ShouldRateLimit", limited).close)
        other = GrpcAuthorizer("other", (f"{net}.5", 9000))
        stack.callback(other.close)
        snapshots = [meshes[case.mesh].snapshot(case.name, app=f"{net}.12") for case in cases]
        problems = [d.message for s in snapshots for d in s.diagnostics]
        assert not problems, problems
        merged = Snapshot.of(b for s in snapshots for named in s.resources.values() for b in named.values())
        proxy = stack.enter_context(envoy(merged, folder, identity(authority, "default", "server")))
        yield Enforced(engine, net, addresses, folder, authority, other, seen, proxy, metrics)


def _service(meshes: Iterable[Mesh], metrics: Metrics) -> Any:  # noqa: ANN401 a handler of gRPC's
    """What our authorization service answers, with the policies that the control planes of the meshes send it."""
    keeper = KeyKeeper(httpx.AsyncClient())
    policies = Policies(keeper.want)
    for mesh in meshes:
        policies.take({blob.name: blob.data for blob in workload_policies(mesh.view)}, [])
    checker = Checker(policies, keeper, metrics, Denials())

    def check(data: bytes, context: grpc.ServicerContext) -> bytes:
        target = next(str(value) for key, value in context.invocation_metadata() if key == "x-lateen-target")
        answer = checker.check(target, "spiffe://cluster.local/ns/default/sa/server", data)
        assert isinstance(answer, bytes), "inline keys need no waiting"
        return answer

    return check


def _yaml(case: Case, address: str) -> str:
    text = _WORKLOAD.replace("NAME", case.name).replace("ADDRESS", address)
    selector = {"matchLabels": {"app": case.name}}
    documents: list[dict[str, object]] = [
        {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "spec": {"selector": selector, **spec}}
        for spec in case.policies
    ]
    if case.tokens:
        spec = {"selector": selector, **(_TOKENS if case.tokens is True else case.tokens)}
        documents.append({"apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication", "spec": spec})
    if case.limits is not None:
        documents.append(
            {
                "apiVersion": "lateen.dev/v1alpha1",
                "kind": "RateLimitPolicy",
                "spec": {"selector": selector, **case.limits},
            }
        )
    for number, document in enumerate(documents):
        document["metadata"] = {
            "name": f"{case.name}-{number}",
            "namespace": case.namespace,
            "annotations": {"istio.io/dry-run": "true"} if case.dry_run else {},
        }
        text += f"\n---\n{json.dumps(document)}\n"
    return text
