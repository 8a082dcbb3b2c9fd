"""AuthorizationPolicy and RequestAuthentication at a gateway, in both engines: HTTP with routes by claim, TLS passed through, TCP."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest

from extauthz.check import Checker
from extauthz.denials import Denials
from extauthz.metrics import Metrics
from extauthz.policies import Policies
from lateen.controlplane.bound_policies import workload_policies
from lateen.controlplane.snapshot import Snapshot
from lateen.jwks.keeper import KeyKeeper
from tests.controlplane.authorizers import GrpcAuthorizer
from tests.controlplane.enforced import ISSUER, JWKS, Calls, token
from tests.controlplane.manifests import bare_app, documents, extauthz, static_entry, workload
from tests.controlplane.pki import Authority
from tests.controlplane.traffic import Mesh, Upstream, call, envoy, identity, lease

pytestmark = pytest.mark.timeout(180)

_MESH = documents(
    """
kind: MeshConfig
apiVersion: lateen.dev/v1alpha1
spec:
  enforcement: ENGINE
  defaultConfig: {gatewayTopology: TOPOLOGY}
  extensionProviders:
  - name: sorter
    envoyExtAuthzGrpc: {service: sorter.test, port: 9000, timeout: 5s, clearRouteCache: true}
  - name: too-late
    envoyExtAuthzGrpc: {service: sorter.test, port: 9000, timeout: 5s}
""",
    static_entry("sorter", "sorter.test", "NET.15", "grpc 9000"),
    extauthz("NET.3"),
    workload("gateway-0", "NET.10", {"istio": "ingressgateway"}, account="gateway"),
    static_entry("apps", "a.test, b.test", "NET.11", "http 8080"),
    static_entry("admins", "admins.test", "NET.12", "http 8080"),
    static_entry("raw", "raw.test", "NET.13", "tls 8443", "tcp 8081"),
    """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: front, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 8090, name: http, protocol: HTTP}, hosts: ["*"]}
  - {port: {number: 8445, name: tls, protocol: TLS}, hosts: ["*"], tls: {mode: PASSTHROUGH}}
  - {port: {number: 9000, name: tcp, protocol: TCP}, hosts: ["*"]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: front, namespace: default}
spec:
  hosts: [www.test]
  gateways: [front]
  http:
  - match: [{headers: {"@request.auth.claims.group": {exact: admin}}}]
    route: [{destination: {host: admins.test, port: {number: 8080}}}]
  - match: [{headers: {x-sorter: {exact: "yes"}}}]
    route: [{destination: {host: admins.test, port: {number: 8080}}}]
  - route: [{destination: {host: a.test, port: {number: 8080}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: raw, namespace: default}
spec:
  hosts: ["*"]
  gateways: [front]
  tcp:
  - match: [{port: 9000}]
    route: [{destination: {host: raw.test, port: {number: 8081}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: tls, namespace: default}
spec:
  hosts: [open.test, shut.test]
  gateways: [front]
  tls:
  - match: [{port: 8445, sniHosts: [open.test]}]
    route: [{destination: {host: raw.test, port: {number: 8443}}}]
  - match: [{port: 8445, sniHosts: [shut.test]}]
    route: [{destination: {host: raw.test, port: {number: 8443}}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: front, namespace: default}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  rules:
  - to: [{operation: {paths: [/public*], ports: ["8090"]}}]
  - {to: [{operation: {ports: ["8090"]}}], when: [{key: "request.auth.claims[group]", values: [admin, staff]}]}
  - {to: [{operation: {ports: ["8445"]}}], when: [{key: connection.sni, values: [open.test]}]}
  - {from: [{source: {ipBlocks: [127.0.0.2]}}], to: [{operation: {ports: ["9000"]}}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody, namespace: default}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  action: DENY
  rules:
  - {to: [{operation: {ports: ["8090"], paths: [/public/secret]}}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: sorted, namespace: default}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  action: CUSTOM
  provider: {name: sorter}
  rules: [{to: [{operation: {paths: [/public/sorted]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: too-late, namespace: default}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  action: CUSTOM
  provider: {name: too-late}
  rules: [{to: [{operation: {paths: [/public/too-late]}}]}]
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: front, namespace: default}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  jwtRules: [{issuer: "ISSUER", jwks: 'JWKS'}]
""",
)


_BY_REF = "---\n" + documents(
    """
apiVersion: v1
kind: Service
metadata: {name: app, namespace: default}
spec: {selector: {app: app}, ports: [{name: http, port: 8080}]}
""",
    bare_app("app", "NET.11"),
    workload("gateway-named-0", "NET.14", {"gateway.networking.k8s.io/gateway-name": "named"}, account="gateway"),
    """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: named, namespace: default}
spec: {gatewayClassName: istio, listeners: [{name: http, port: 8091, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: named, namespace: default}
spec: {parentRefs: [{name: named}], rules: [{backendRefs: [{name: app, port: 8080}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: named, namespace: default}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: named}]
  action: DENY
  rules: [{to: [{operation: {paths: [/secret*]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: of-another, namespace: default}
spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: another}]}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: named, namespace: default}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: named}]
  jwtRules: [{issuer: "ISSUER", jwks: 'JWKS'}]
""",
)


@dataclass
class World:
    """A running gateway, and another that policies name."""

    gateway: str
    named: str

    def http(
        self, path: str, claims: Mapping[str, object] | None = None, bearer: str = "", *, named: bool = False
    ) -> tuple[int, str]:
        """The status, and which application answered."""
        given = token(claims) if claims is not None else bearer
        headers = {"host": "www.test", **({"authorization": f"Bearer {given}"} if given else {})}
        answer = call((self.named, 8091) if named else (self.gateway, 8090), path, headers=headers)
        return answer.status, str(answer.json["name"]) if answer.status == 200 else ""

    def raw(self, port: int, *, source: str = "127.0.0.1", server_name: str = "") -> bytes:
        """What a connection is told; nothing when it is closed."""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            plain = socket.create_connection((self.gateway, port), timeout=20, source_address=(source, 0))
            if server_name:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE  # the server's certificate is not what is tested here
                plain = context.wrap_socket(plain, server_hostname=server_name)
            with plain:
                plain.sendall(b"hello")
                return plain.recv(100)
        return b""


@contextlib.contextmanager
def _raw_server(address: tuple[str, int], context: ssl.SSLContext | None) -> Iterator[None]:
    """Says `welcome` to whoever says something."""

    def serve() -> None:
        while True:
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connection.settimeout(20)
                with context.wrap_socket(connection, server_side=True) if context is not None else connection as ready:
                    if ready.recv(100):
                        ready.sendall(b"welcome")

    with socket.create_server(address) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield
        listener.shutdown(socket.SHUT_RDWR)


_BY_CLIENT = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: by-client, namespace: default}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  rules:
  - from: [{source: {remoteIpBlocks: [10.0.0.0/8]}}]
  - {from: [{source: {ipBlocks: [127.0.0.0/8]}}], to: [{operation: {paths: [/peer], ports: ["8090"]}}]}
  - {from: [{source: {ipBlocks: [9.9.9.0/24]}}]}
  - {from: [{source: {ipBlocks: [127.0.0.2]}}]}
"""


@pytest.fixture(scope="module", params=["extAuthz", "native"])
def world(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[World]:
    text = _MESH.replace("TOPOLOGY", "{}") + _BY_REF
    with _running(text, request.param, tmp_path_factory.mktemp("gateway"), "gateway-named-0") as started:
        yield started


@pytest.fixture(scope="module", params=["extAuthz", "native"])
def behind_balancer(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[World]:
    before = _MESH.partition("---\napiVersion: security.istio.io")[0]
    text = before.replace("TOPOLOGY", "{proxyProtocol: {}}") + _BY_CLIENT
    with _running(text, request.param, tmp_path_factory.mktemp("balanced")) as started:
        yield started


@contextlib.contextmanager
def _running(text: str, engine: str, folder: Path, *more: str) -> Iterator[World]:
    net, authority = lease(), Authority()
    mesh = Mesh(net, text=text.replace("ENGINE", engine).replace("ISSUER", ISSUER).replace("JWKS", JWKS))
    policies = Policies(KeyKeeper(httpx.AsyncClient()).want)
    policies.take({blob.name: blob.data for blob in workload_policies(mesh.view)}, [])
    checker = Checker(policies, KeyKeeper(httpx.AsyncClient()), Metrics(), Denials())

    def check(data: bytes, context: grpc.ServicerContext) -> bytes:
        target = next(str(value) for key, value in context.invocation_metadata() if key == "x-lateen-target")
        peers = [str(value) for key, value in context.invocation_metadata() if key == "x-lateen-peer"]
        peer = peers[0] if peers else ""
        answer = checker.check(target, "spiffe://cluster.local/ns/default/sa/gateway", data, peer=peer)
        assert isinstance(answer, bytes), "inline keys need no waiting"
        return answer

    pair = authority.issue("spiffe://cluster.local/ns/default/sa/raw")
    (folder / "raw.pem").write_bytes(pair.certificate + pair.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "raw.pem")
    with contextlib.ExitStack() as stack:
        stack.callback(Upstream("apps", (f"{net}.11", 8080)).close)
        stack.callback(Upstream("admins", (f"{net}.12", 8080)).close)
        stack.enter_context(_raw_server((f"{net}.13", 8443), context))
        stack.enter_context(_raw_server((f"{net}.13", 8081), None))
        stack.callback(Calls(f"{net}.3:9191", "envoy.service.auth.v3.Authorization", "Check", check).close)
        stack.callback(GrpcAuthorizer("sorter", (f"{net}.15", 9000)).close)
        snapshots = [mesh.snapshot(name) for name in ("gateway-0", *more)]
        assert not [d for snapshot in snapshots for d in snapshot.diagnostics]
        merged = Snapshot.of(b for s in snapshots for named in s.resources.values() for b in named.values())
        stack.enter_context(envoy(merged, folder / "envoy", identity(authority, "default", "gateway")))
        yield World(f"{net}.10", f"{net}.14")


@pytest.mark.parametrize(
    ("path", "claims", "bearer", "expected"),
    [
        ("/public", None, "", (200, "apps")),
        ("/public/secret", {"group": "admin"}, "", (403, "")),
        ("/other", None, "", (403, "")),
        ("/other", {"group": "admin"}, "", (200, "admins")),
        ("/other", {"group": ["admin", "x"]}, "", (200, "admins")),
        ("/other", {"group": "staff"}, "", (200, "apps")),
        ("/other", {"group": "guest"}, "", (403, "")),
        ("/public", {"group": "admin"}, "", (200, "admins")),
        ("/public", None, "a.b.c", (401, "")),
        ("/public/sorted", None, "", (200, "admins")),
        ("/public/too-late", None, "", (200, "apps")),
    ],
)
def test_http_and_routes_by_claim(
    world: World, path: str, claims: Mapping[str, object] | None, bearer: str, expected: tuple[int, str]
) -> None:
    assert world.http(path, claims, bearer) == expected


@pytest.mark.parametrize(
    ("path", "bearer", "expected"),
    [("/", "", (200, "apps")), ("/secret/1", "", (403, "")), ("/", "a.b.c", (401, ""))],
)
def test_policies_that_name_a_gateway(world: World, path: str, bearer: str, expected: tuple[int, str]) -> None:
    assert world.http(path, bearer=bearer, named=True) == expected


@pytest.mark.parametrize(("name", "expected"), [("open.test", b"welcome"), ("shut.test", b""), ("other.test", b"")])
def test_tls_that_is_passed_through(world: World, name: str, expected: bytes) -> None:
    assert world.raw(8445, server_name=name) == expected


@pytest.mark.parametrize(("source", "expected"), [("127.0.0.2", b"welcome"), ("127.0.0.1", b"")])
def test_tcp(world: World, source: str, expected: bytes) -> None:
    assert world.raw(9000, source=source) == expected


def _said(
    world: World, port: int, announced: str, path: str = "/", *, forwarded: str = "", source: str = "127.0.0.1"
) -> bytes:
    """What is answered to a request, or to bytes on the TCP port, that a load balancer passes on from `announced`."""
    line = f"PROXY TCP4 {announced} 127.0.0.1 4000 {port}\r\n" if announced else ""
    more = f"x-forwarded-for: {forwarded}\r\n" if forwarded else ""
    request = f"{line}GET {path} HTTP/1.1\r\nhost: www.test\r\n{more}connection: close\r\n\r\n"
    with (
        contextlib.suppress(ConnectionError),
        socket.create_connection((world.gateway, port), timeout=20, source_address=(source, 0)) as plain,
    ):
        plain.sendall(request.encode())
        return plain.recv(12)
    return b""


@pytest.mark.parametrize(
    ("announced", "path", "forwarded", "expected"),
    [
        ("10.1.1.1", "/", "", b"HTTP/1.1 200"),
        ("9.9.9.9", "/", "", b"HTTP/1.1 403"),
        ("9.9.9.9", "/", "10.1.1.1", b"HTTP/1.1 403"),
        ("9.9.9.9", "/peer", "", b"HTTP/1.1 200"),
        ("", "/", "", b""),
    ],
)
def test_clients_that_a_balancer_announces(
    behind_balancer: World, announced: str, path: str, forwarded: str, expected: bytes
) -> None:
    assert _said(behind_balancer, 8090, announced, path, forwarded=forwarded) == expected


@pytest.mark.parametrize(("announced", "expected"), [("10.1.1.1", b"welcome"), ("9.9.9.9", b""), ("", b"")])
def test_tcp_clients_that_a_balancer_announces(behind_balancer: World, announced: str, expected: bytes) -> None:
    assert _said(behind_balancer, 9000, announced) == expected


def test_the_balancer_itself_is_the_peer(behind_balancer: World) -> None:
    assert _said(behind_balancer, 9000, "9.9.9.9", source="127.0.0.2") == b"welcome"
    assert _said(behind_balancer, 8090, "9.9.9.9", source="127.0.0.2") == b"HTTP/1.1 200"
