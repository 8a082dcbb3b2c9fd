"""CUSTOM policies through a real Envoy with real authorizers, in both enforcement modes."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.controlplane.authorizers import GrpcAuthorizer, HttpAuthorizer
from tests.controlplane.manifests import documents, static_entry, workload
from tests.controlplane.pki import Authority
from tests.controlplane.traffic import Answer, Mesh, Upstream, call, envoy, identity, lease

pytestmark = pytest.mark.timeout(120)

_MESH = documents(
    """
kind: MeshConfig
apiVersion: lateen.dev/v1alpha1
spec:
  enforcement: ENGINE
  extensionProviders:
  - name: one
    envoyExtAuthzGrpc: {service: one.default.svc.cluster.local, port: 9000, timeout: 5s, includeRequestBodyInCheck: {maxRequestBytes: 64, allowPartialMessage: true}}
  - name: two
    envoyExtAuthzHttp:
      service: default/two.default.svc.cluster.local
      port: 9001
      pathPrefix: /check
      timeout: 5s
      includeRequestHeadersInCheck: [x-verdict, x-many-*]
      includeAdditionalHeadersInCheck: {x-from: mesh}
      headersToUpstreamOnAllow: [x-to-upstream]
      headersToDownstreamOnAllow: [x-to-client-ok]
      headersToDownstreamOnDeny: [x-to-client-denied]
  - name: bytes
    envoyExtAuthzGrpc: {service: one.default.svc.cluster.local, port: 9000, timeout: 5s, includeRequestBodyInCheck: {maxRequestBytes: 64, packAsBytes: true}}
  - name: reading
    envoyExtAuthzHttp:
      service: two.default.svc.cluster.local
      port: 9001
      timeout: 5s
      includeHeadersInCheck: [x-old]
      includeRequestBodyInCheck: {maxRequestBytes: 64, allowPartialMessage: true}
      headersToUpstreamOnAllow: [x-to-*]
  - name: http-dead
    envoyExtAuthzHttp: {service: dead.default.svc.cluster.local, port: 9002, timeout: 0.5s, statusOnError: "502"}
  - name: http-open
    envoyExtAuthzHttp: {service: dead.default.svc.cluster.local, port: 9002, timeout: 0.5s, failOpen: true}
  - name: http-slow
    envoyExtAuthzHttp: {service: two.default.svc.cluster.local, port: 9001, timeout: 0.2s, includeAdditionalHeadersInCheck: {x-wait: "1"}}
  - name: dead
    envoyExtAuthzGrpc: {service: dead.default.svc.cluster.local, port: 9002, timeout: 0.5s, statusOnError: "503"}
  - name: dead-open
    envoyExtAuthzGrpc: {service: dead.default.svc.cluster.local, port: 9002, timeout: 0.5s, failOpen: true}
  - name: lost
    envoyExtAuthzGrpc: {service: nowhere.default.svc.cluster.local, port: 9000, failOpen: true}
  - name: no-slash
    envoyExtAuthzHttp: {service: two.default.svc.cluster.local, port: 9001, pathPrefix: check, failOpen: true}
  - name: no-status
    envoyExtAuthzHttp: {service: two.default.svc.cluster.local, port: 9001, statusOnError: "299", failOpen: true}
  - name: no-port
    envoyExtAuthzGrpc: {service: one.default.svc.cluster.local, port: 9, failOpen: true}
  - name: metrics
    prometheus: {}
---
apiVersion: v1
kind: Service
metadata: {name: server, namespace: default}
spec: {selector: {app: server}, ports: [{name: http, port: 8080}, {name: tcp, port: 8082}]}
""",
    workload("server-0", "NET.11", {"app": "server"}, account="server-sa"),
    static_entry("authorizers", "one.default.svc.cluster.local", "NET.20", "grpc 9000"),
    static_entry("two", "two.default.svc.cluster.local", "NET.20", "http 9001"),
    static_entry("dead", "dead.default.svc.cluster.local", "NET.20", "grpc 9002"),
)
_POLICY = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: NAME, namespace: default}
spec:
  selector: {matchLabels: {app: server}}
  action: CUSTOM
  provider: {name: PROVIDER}
  rules: [{to: [{operation: {RULE}}]}]
"""
_WITH_ALL = ("one", "two")
_UNASKED = ("lost", "no-slash", "no-status", "no-port", "metrics", "unknown")
_PROVIDERS = {
    "one": "/one*",
    "two": "/two*",
    "dead-open": "/open/*",
    **{name: f"/{name}/*" for name in ("bytes", "reading", "dead", "http-dead", "http-open", "http-slow", *_UNASKED)},
}  # fmt: skip


def _policies() -> str:
    made = [
        _policy(f"a-{name}", name, f'paths: ["{path}"{", /all" if name in _WITH_ALL else ""}]')
        for name, path in _PROVIDERS.items()
    ]
    return "".join([*made, _policy("tcp", "one", 'ports: ["8082"]')])


def _policy(name: str, provider: str, rule: str) -> str:
    return _POLICY.replace("NAME", name).replace("PROVIDER", provider).replace("RULE", rule)


@dataclass
class World:
    """A server behind its proxy, and its authorizers."""

    server: str
    app: Upstream
    one: GrpcAuthorizer
    two: HttpAuthorizer

    def get(self, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
        names = {k.replace("_", "-"): v for k, v in headers.items()}
        return call((self.server, 8080), path, method=method, body=body, headers=names)


@pytest.fixture(scope="module", params=["extAuthz", "native"])
def world(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[World]:
    net, folder, authority = lease(), tmp_path_factory.mktemp("custom"), Authority()
    mesh = Mesh(net, text=_MESH.replace("ENGINE", request.param) + _policies())
    with contextlib.ExitStack() as stack:
        app = Upstream("app", (f"{net}.12", 8080))
        tcp = Upstream("tcp", (f"{net}.12", 8082))
        one, two = GrpcAuthorizer("one", (f"{net}.20", 9000)), HttpAuthorizer("two", (f"{net}.20", 9001))
        for closed in (app, tcp, one, two):
            stack.callback(closed.close)
        snapshot = mesh.snapshot("server-0", app=f"{net}.12")
        stack.enter_context(envoy(snapshot, folder, identity(authority, "default", "server-sa")))
        yield World(f"{net}.11", app, one, two)


def test_only_what_the_rules_choose_is_asked(world: World) -> None:
    before = len(world.one.seen), len(world.two.seen)
    assert world.get("/free", x_verdict="one-no").status == 200
    assert (len(world.one.seen), len(world.two.seen)) == before
    assert world.get("/one/x").status == 200
    assert (len(world.one.seen), len(world.two.seen)) == (before[0] + 1, before[1])


def test_grpc_denies_allows_and_adds_headers(world: World) -> None:
    denied = world.get("/one", x_verdict="one-no")
    assert (denied.status, denied.body) == (401, b"one says no")
    assert world.get("/one", x_verdict="two-no").json["headers"]["x-one"] == "yes"


def test_grpc_sees_the_body_up_to_its_limit(world: World) -> None:
    answer = world.get("/one/body", method="POST", body=b"x" * 100)
    assert answer.status == 200
    assert world.one.seen[-1].attributes.request.http.body == "x" * 64


def test_http_options(world: World) -> None:
    allowed = world.get("/two/a?b=c", x_many_1="1", x_hidden="h", authorization="Basic x")
    assert allowed.status == 200
    method, path, headers, _ = world.two.seen[-1]
    assert (method, path) == ("GET", "/check/two/a?b=c")
    assert headers["x-many-1"] == "1"
    assert headers["x-from"] == "mesh"
    assert headers["authorization"] == "Basic x"
    assert "x-hidden" not in headers
    assert allowed.json["headers"]["x-to-upstream"] == "two"
    assert "x-secret" not in allowed.json["headers"]
    assert allowed.headers["x-to-client-ok"] == "two"
    assert "x-to-client-denied" not in allowed.headers


def test_http_denies(world: World) -> None:
    denied = world.get("/two", x_verdict="two-no")
    assert (denied.status, denied.body) == (403, b"http says no")
    assert denied.headers["x-to-client-denied"] == "two"
    assert "x-secret" not in denied.headers


def test_several_providers_all_have_their_say(world: World) -> None:
    before = len(world.one.seen), len(world.two.seen)
    assert world.get("/all").status == 200
    assert (len(world.one.seen), len(world.two.seen)) == (before[0] + 1, before[1] + 1)
    assert world.get("/all", x_verdict="one-no").status == 401
    assert world.get("/all", x_verdict="two-no").status == 403


def test_an_authorizer_that_is_down(world: World) -> None:
    assert world.get("/dead/x").status == 503
    assert world.get("/open/x").status == 200


def test_http_authorizers_that_are_down_or_slow(world: World) -> None:
    assert world.get("/http-dead/x").status == 502
    assert world.get("/http-open/x").status == 200
    assert world.get("/http-slow/x").status == 403


def test_a_body_as_bytes_and_a_body_that_is_too_long(world: World) -> None:
    assert world.get("/bytes/x", method="POST", body=b"\xff\xfe").status == 200
    seen = world.one.seen[-1].attributes.request.http
    assert (seen.raw_body, seen.body) == (b"\xff\xfe", "")
    before = len(world.one.seen)
    assert world.get("/bytes/x", method="POST", body=b"x" * 100).status == 413, "only a whole body is passed on"
    assert len(world.one.seen) == before


def test_an_authorizer_over_http_sees_the_body_and_the_headers_of_the_older_option(world: World) -> None:
    answer = world.get("/reading/x", method="POST", body=b"x" * 100, x_old="o", x_many_1="1")
    _, path, headers, body = world.two.seen[-1]
    assert (path, headers.get("x-old"), headers.get("x-many-1"), body) == ("/reading/x", "o", None, b"x" * 64)
    assert (answer.status, answer.json["headers"]["x-to-upstream"]) == (200, "two")


@pytest.mark.parametrize("path", [f"/{name}/x" for name in _UNASKED])
def test_a_provider_that_cannot_be_asked_denies_what_its_rules_match(world: World, path: str) -> None:
    answer = world.get(path)
    assert (answer.status, answer.body) == (403, b"RBAC: access denied")


def test_tcp_connections_are_asked_about(world: World) -> None:
    world.one.allow_tcp = True
    before = len(world.one.seen)
    assert call((world.server, 8082), "/").status == 200
    assert len(world.one.seen) == before + 1
    world.one.allow_tcp = False
    with socket.create_connection((world.server, 8082), timeout=15) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        received = b""
        with contextlib.suppress(ConnectionResetError):
            received = connection.recv(100)
    assert received == b""
