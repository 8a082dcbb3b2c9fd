"""Gateways of both APIs, asked of a real Envoy: HTTPRoute precedence and filters, HTTPS by Secret, hosts of Istio Gateways."""

from __future__ import annotations

import base64
import contextlib
import http.client
import ipaddress
import socket
import ssl
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest

from tests.controlplane.manifests import bare_app, documents, service, workload
from tests.controlplane.pki import Authority
from tests.controlplane.traffic import Answer, Mesh, Upstream, call, envoy, identity, lease

pytestmark = pytest.mark.timeout(120)

_MESH = documents(
    service("a"),
    service("b"),
    service("far", "other"),
    workload(
        "gateway-istio-0",
        "NET.10",
        {"istio": "ingressgateway", "gateway.networking.k8s.io/gateway-name": "gateway"},
        account="gateway-istio",
    ),
    bare_app("a", "NET.11"),
    bare_app("b", "NET.12"),
    bare_app("far", "NET.13", "other"),
    """
apiVersion: v1
kind: Secret
metadata: {name: cert, namespace: default}
type: kubernetes.io/tls
data: {tls.crt: CRT, tls.key: KEY}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gateway, namespace: default}
spec:
  gatewayClassName: istio
  listeners:
  - {name: http, port: 80, protocol: HTTP}
  - {name: https, port: 443, protocol: HTTPS, hostname: "*.shop.example", tls: {certificateRefs: [{name: cert}]}}
  - {name: broken, port: 444, protocol: HTTPS, tls: {certificateRefs: [{name: missing}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: one, namespace: default, creationTimestamp: "2024-01-01T00:00:00Z"}
spec:
  parentRefs: [{name: gateway}]
  hostnames: [www.shop.example]
  rules:
  - {matches: [{path: {type: PathPrefix, value: /}}], backendRefs: [{name: a, port: 80}]}
  - {matches: [{path: {type: PathPrefix, value: /seg}}], backendRefs: [{name: b, port: 80}]}
  - {matches: [{path: {type: Exact, value: /seg/exact}}], backendRefs: [{name: a, port: 80}]}
  - {matches: [{path: {value: /m}, method: POST}], backendRefs: [{name: b, port: 80}]}
  - {matches: [{path: {value: /m}}], backendRefs: [{name: a, port: 80}]}
  - {matches: [{path: {value: /hd}}], backendRefs: [{name: a, port: 80}]}
  - {matches: [{path: {value: /hd}, headers: [{name: X-One, value: "1"}]}], backendRefs: [{name: b, port: 80}]}
  - {matches: [{path: {value: /qp}, queryParams: [{name: v, value: "2"}]}], backendRefs: [{name: b, port: 80}]}
  - matches: [{path: {value: /half}}]
    backendRefs: [{name: a, port: 80, weight: 1}, {name: nothing, port: 80, weight: 1}]
  - {matches: [{path: {value: /broken}}], backendRefs: [{name: nothing, port: 80}]}
  - {matches: [{path: {value: /none}}]}
  - {matches: [{path: {value: /denied}}], backendRefs: [{name: far, namespace: other, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: three, namespace: default, creationTimestamp: "2024-06-01T00:00:00Z"}
spec:
  parentRefs: [{name: gateway}]
  hostnames: [www.shop.example]
  rules:
  - matches: [{path: {value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: new.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}, statusCode: 301}}]
  - matches: [{path: {value: /strip}}]
    filters: [{type: URLRewrite, urlRewrite: {hostname: in.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {value: /full}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /whole}}}]
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {value: /hm}}]
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: "50%"}], remove: [x-gone]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-added, value: yes-it-is}]}}
    backendRefs: [{name: a, port: 80}]
  - {matches: [{path: {value: /slow}}], timeouts: {request: 300ms}, backendRefs: [{name: a, port: 80}]}
  - {matches: [{path: {value: /ext}}], filters: [{type: ExtensionRef, extensionRef: {group: x.example, kind: Foo, name: foo}}], backendRefs: [{name: a, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: two, namespace: default, creationTimestamp: "2025-01-01T00:00:00Z"}
spec:
  parentRefs: [{name: gateway}]
  hostnames: [www.shop.example, "*.wild.example"]
  rules:
  - {matches: [{path: {value: /seg/longer}}], backendRefs: [{name: a, port: 80}]}
  - {matches: [{path: {value: /}}], backendRefs: [{name: b, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: istio, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 8090, name: http, protocol: HTTP}, hosts: ["*.istio.example"]}
  - {port: {number: 8091, name: http-redirect, protocol: HTTP}, hosts: ["www.istio.example"], tls: {httpsRedirect: true}}
  - {port: {number: 8445, name: tls, protocol: TLS}, hosts: ["pass.istio.example"], tls: {mode: PASSTHROUGH}}
  - {port: {number: 9443, name: mutual, protocol: HTTPS}, hosts: ["mutual.istio.example"], tls: {mode: MUTUAL, credentialName: mutual}}
  - {port: {number: 9000, name: tcp, protocol: TCP}, hosts: ["*"]}
---
apiVersion: v1
kind: Secret
metadata: {name: mutual, namespace: default}
data: {tls.crt: CRT, tls.key: KEY, ca.crt: ROOT}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: istio, namespace: default}
spec:
  hosts: [www.istio.example, mutual.istio.example, elsewhere.example]
  gateways: [istio]
  http: [{route: [{destination: {host: a}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: istio-more, namespace: default}
spec:
  hosts: [www.istio.example]
  gateways: [istio]
  http: [{match: [{uri: {prefix: /more}}], route: [{destination: {host: b}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: raw, namespace: default}
spec:
  hosts: [pass.istio.example]
  gateways: [istio]
  tls: [{match: [{sniHosts: [pass.istio.example], port: 8445}], route: [{destination: {host: a}}]}]
  tcp: [{match: [{port: 9000}], route: [{destination: {host: b}}]}]
""",
)


_NONE: Mapping[str, str] = {}


@dataclass
class World:
    """The gateway's address and its certificate's authority."""

    address: str
    authority: Authority
    messages: tuple[str, ...]

    def get(
        self,
        path: str,
        host: str = "www.shop.example",
        *,
        port: int = 8080,
        method: str = "GET",
        headers: Mapping[str, str] = _NONE,
    ) -> Answer:
        given = {"Host": host, **headers}
        return call((self.address, port), path, method=method, headers=given)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    net, authority = lease(), Authority()
    pair = authority.issue(dns="www.shop.example")
    values = {"CRT": pair.certificate, "KEY": pair.key, "ROOT": authority.root}
    text = _MESH
    for word, value in values.items():
        text = text.replace(f" {word}", " " + base64.b64encode(value).decode())
    snapshot = Mesh(net, text=text).snapshot("gateway-istio-0")
    with contextlib.ExitStack() as stack:
        for name, last in (("a", 11), ("b", 12), ("far", 13)):
            stack.callback(Upstream(name, (f"{net}.{last}", 8080)).close)
        stack.enter_context(
            envoy(snapshot, tmp_path_factory.mktemp("gateway"), identity(authority, "default", "gateway-istio"))
        )
        yield World(f"{net}.10", authority, tuple(d.message for d in snapshot.diagnostics))


@pytest.mark.parametrize(
    ("path", "method", "headers", "backend"),
    [
        ("/", "GET", {}, "a"),
        ("/seg", "GET", {}, "b"),
        ("/seg/", "GET", {}, "b"),
        ("/segment", "GET", {}, "a"),
        ("/seg/exact", "GET", {}, "a"),
        ("/seg/longer/x", "GET", {}, "a"),
        ("/m", "GET", {}, "a"),
        ("/m", "POST", {}, "b"),
        ("/hd", "GET", {}, "a"),
        ("/hd", "GET", {"x-one": "1"}, "b"),
        ("/qp?v=2", "GET", {}, "b"),
        ("/qp?v=3", "GET", {}, "a"),
    ],
)
def test_precedence_across_rules_and_routes(
    world: World, path: str, method: str, headers: dict[str, str], backend: str
) -> None:
    assert world.get(path, method=method, headers=headers).json["name"] == backend


def test_wildcard_host_and_unknown_host(world: World) -> None:
    assert world.get("/", host="x.wild.example").json["name"] == "b"
    assert world.get("/", host="wild.example").status == 404
    assert world.get("/", host="stranger.example").status == 404


def test_share_of_an_invalid_backend_is_500(world: World) -> None:
    seen = Counter(world.get("/half").status for _ in range(60))
    assert set(seen) == {200, 500}


@pytest.mark.parametrize("path", ["/broken", "/none", "/denied", "/ext"])
def test_what_cannot_be_served_is_500(world: World, path: str) -> None:
    assert world.get(path).status == 500


def test_what_was_left_out_is_told(world: World) -> None:
    told = "\n".join(world.messages)
    assert "secret default/missing does not exist" in told
    assert "ExtensionRef filter Foo/foo is not supported" in told
    assert "nothing" in told


def test_redirect_and_rewrites(world: World) -> None:
    assert world.get("/old/x?q=1").headers["location"] == "https://new.example/new/x?q=1"
    stripped = world.get("/strip/x/y").json
    assert (stripped["path"], stripped["headers"]["host"]) == ("/x/y", "in.example")
    assert world.get("/strip").json["path"] == "/"
    assert world.get("/full/x?q=1").json["path"] == "/whole?q=1"


def test_header_modifiers_are_literal(world: World) -> None:
    answer = world.get("/hm", headers={"x-gone": "1"})
    assert answer.json["headers"]["x-set"] == "50%"
    assert "x-gone" not in answer.json["headers"]
    assert answer.headers["x-added"] == "yes-it-is"


def test_timeout(world: World) -> None:
    assert world.get("/slow", headers={"x-delay": "1"}).status == 504


def test_clients_cannot_forge_address_or_certificate(world: World) -> None:
    got = world.get(
        "/", headers={"x-forwarded-for": "10.9.8.7", "x-forwarded-client-cert": "URI=spiffe://forged"}
    ).json["headers"]
    claimed, peer = got["x-forwarded-for"].split(",")  # for a loopback client Envoy writes the host's own address
    assert (claimed, str(ipaddress.ip_address(peer))) == ("10.9.8.7", peer)
    assert "x-forwarded-client-cert" not in got


def _https(world: World, port: int, name: str, client: tuple[str, str] | None = None) -> Answer:
    context = ssl.create_default_context(cadata=world.authority.root.decode())
    context.check_hostname = False
    if client is not None:
        context.load_cert_chain(*client)
    raw = socket.create_connection((world.address, port), timeout=30)
    with raw, context.wrap_socket(raw, server_hostname=name) as tls:
        connection = http.client.HTTPConnection(name)
        connection.sock = tls
        connection.request("GET", "/x", headers={"Host": name, "Connection": "close"})
        response = connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())


def test_https_by_secret(world: World) -> None:
    answer = _https(world, 8443, "www.shop.example")
    assert (answer.status, answer.json["headers"]["x-forwarded-proto"]) == (200, "https")


def test_https_of_another_name_is_refused(world: World) -> None:
    with pytest.raises(OSError, match=r"(?i)reset|EOF|closed"):
        _https(world, 8443, "www.other.example")


def test_istio_gateway_hosts(world: World) -> None:
    assert world.get("/x", host="www.istio.example", port=8090).json["name"] == "a"
    assert world.get("/more", host="www.istio.example", port=8090).json["name"] == "b"
    assert world.get("/x", host="www.istio.example:8090", port=8090).json["name"] == "a"
    assert world.get("/x", host="elsewhere.example", port=8090).status == 404


def test_https_redirect(world: World) -> None:
    answer = world.get("/x", host="www.istio.example", port=8091)
    assert (answer.status, answer.headers["location"]) == (301, "https://www.istio.example/x")


def test_mutual_tls_at_the_gateway(world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    files = world.authority.write(tmp_path_factory.mktemp("client"), world.authority.issue(dns="client.example"))
    assert _https(world, 9443, "mutual.istio.example", (files["cert"], files["key"])).status == 200
    with pytest.raises(OSError, match=r"(?i)certificate|reset|EOF"):
        _https(world, 9443, "mutual.istio.example")


def test_tcp(world: World) -> None:
    assert call((world.address, 9000), "/t").json["name"] == "b"


def test_passthrough_by_server_name(world: World) -> None:
    """The backend answers in plaintext, which the client's TLS cannot read: the gateway ended nothing."""
    with (
        socket.create_connection((world.address, 8445), timeout=30) as raw,
        pytest.raises(ssl.SSLError, match="WRONG_VERSION"),
    ):
        ssl.create_default_context().wrap_socket(raw, server_hostname="pass.istio.example")
    with (
        socket.create_connection((world.address, 8445), timeout=30) as raw,
        pytest.raises(OSError, match=r"(?i)reset|EOF|closed"),
    ):
        ssl.create_default_context().wrap_socket(raw, server_hostname="other.istio.example")
