"""What VirtualServices and DestinationRules mean, asked of a real Envoy: one start for all routes of a client's sidecar."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest

from tests.controlplane.pki import Authority
from tests.controlplane.traffic import Answer, Mesh, Running, Upstream, call, envoy, identity, lease

pytestmark = pytest.mark.timeout(120)

_SERVICES = """
apiVersion: v1
kind: Service
metadata: {name: NAME, namespace: default}
spec: {selector: {app: NAME}, ports: [{name: http, port: 9080}]}
---
"""
_WORKLOAD = """
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: NAME, namespace: default}
spec: {address: NET.LAST, labels: {app: APP, version: VERSION, security.istio.io/tlsMode: disabled}, serviceAccount: APP}
---
"""
_RULES = """
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: client, namespace: default}
spec: {address: NET.10, labels: {app: client}, serviceAccount: client}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: matches, namespace: default}
spec:
  hosts: [matches.example]
  http:
  - {match: [{uri: {exact: /Exact}, ignoreUriCase: true}], directResponse: {status: 200, body: {string: exact}}}
  - {match: [{uri: {prefix: /pre}}], directResponse: {status: 200, body: {string: prefix}}}
  - {match: [{uri: {regex: "/r/[a-z]+"}}], directResponse: {status: 200, body: {string: regex}}}
  - {match: [{uri: {prefix: /get}, method: {exact: GET}}], directResponse: {status: 200, body: {string: get}}}
  - {match: [{uri: {exact: /h}, headers: {x-a: {exact: "1"}, x-b: {}}}], directResponse: {status: 200, body: {string: headers}}}
  - {match: [{uri: {exact: /wo}, withoutHeaders: {x-no: {}, x-v: {exact: bad}}}], directResponse: {status: 200, body: {string: without}}}
  - {match: [{uri: {exact: /q}, queryParams: {a: {exact: "1"}, b: {regex: "x+"}, c: {}}}], directResponse: {status: 200, body: {string: query}}}
  - {match: [{uri: {exact: /or}, headers: {x-1: {}}}, {uri: {exact: /or}, headers: {x-2: {}}}], directResponse: {status: 200, body: {string: either}}}
  - {match: [{uri: {exact: /other}, sourceLabels: {app: someone-else}}], directResponse: {status: 200, body: {string: wrong}}}
  - {match: [{uri: {exact: /mine}, sourceLabels: {app: client}}], directResponse: {status: 200, body: {string: mine}}}
  - {directResponse: {status: 404, body: {string: none}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: default}
spec:
  host: reviews
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: hashed, namespace: default}
spec:
  host: hashed
  trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: flaky, namespace: default}
spec:
  host: flaky
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN}
    outlierDetection: {consecutive5xxErrors: 2, interval: 1s, baseEjectionTime: 60s, maxEjectionPercent: 50}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: flaky, namespace: default}
spec: {hosts: [flaky], http: [{retries: {attempts: 0}, route: [{destination: {host: flaky}}]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: cookie, namespace: default}
spec:
  host: cookie
  trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: session, ttl: 0s}, maglev: {}}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: default}
spec:
  hosts: [reviews]
  http:
  - {match: [{headers: {x-test-cohort: {exact: canary}}}], route: [{destination: {host: reviews, subset: v2}}]}
  - {match: [{uri: {prefix: /strip}}], rewrite: {uri: /}, route: [{destination: {host: reviews, subset: v1}}]}
  - {match: [{uri: {prefix: /swap/}}], rewrite: {uri: /other/, authority: rewritten.example}, route: [{destination: {host: reviews, subset: v1}}]}
  - {match: [{uri: {exact: /whole}}], rewrite: {uri: /all/of/it}, route: [{destination: {host: reviews, subset: v1}}]}
  - {match: [{uri: {regex: "/any/.*"}}], rewrite: {uri: /fixed}, route: [{destination: {host: reviews, subset: v1}}]}
  - {match: [{uri: {prefix: /users}}], rewrite: {uriRegexRewrite: {match: '^/users/([^/]+)/(.*)$', rewrite: '/\\2/of/\\1'}}, route: [{destination: {host: reviews, subset: v1}}]}
  - {match: [{uri: {prefix: /moved}}], redirect: {uri: /new, authority: other.example, redirectCode: 308}}
  - {match: [{uri: {prefix: /secure}}], redirect: {scheme: https}}
  - match: [{uri: {prefix: /headers}}]
    headers: {request: {set: {x-set: new}, add: {x-add: "two"}, remove: [x-gone]}, response: {set: {x-answer: "100%%"}, remove: [x-upstream]}}
    route: [{destination: {host: reviews, subset: v1}, headers: {request: {set: {Host: set.example}}}}]
  - match: [{uri: {prefix: /retried}}]
    retries: {attempts: 3, perTryTimeout: 2s, retryOn: "503"}
    route: [{destination: {host: pair}}]
  - {match: [{uri: {prefix: /slow}}], timeout: 0.3s, retries: {attempts: 0}, route: [{destination: {host: reviews, subset: v1}}]}
  - {match: [{uri: {prefix: /delayed}}], fault: {delay: {percentage: {value: 100}, fixedDelay: 0.4s}}, route: [{destination: {host: reviews, subset: v1}}]}
  - {match: [{uri: {prefix: /aborted}}], fault: {abort: {percentage: {value: 100}, httpStatus: 418}}, route: [{destination: {host: reviews, subset: v1}}]}
  - {match: [{uri: {prefix: /mirrored}}], mirror: {host: shadow}, route: [{destination: {host: reviews, subset: v1}}]}
  - match: [{uri: {prefix: /cors}}]
    corsPolicy: {allowOrigins: [{exact: "https://a.example"}, {regex: 'https://[a-z]+\\.b\\.example'}], allowMethods: [GET, PUT], maxAge: 60s, allowCredentials: true}
    route: [{destination: {host: reviews, subset: v1}}]
  - {match: [{uri: {prefix: /bytes}}], directResponse: {status: 200, body: {bytes: AAEC}}}
  - {match: [{uri: {prefix: /nowhere}}], route: [{destination: {host: nowhere}}]}
  - route: [{destination: {host: reviews, subset: v1}, weight: 90}, {destination: {host: reviews, subset: v2}, weight: 10}]
"""
_WORKLOADS = [
    ("reviews", "v1", 11), ("reviews", "v2", 12), ("pair", "a", 13), ("pair", "b", 14), ("hashed", "a", 15), ("hashed", "b", 16),
    ("hashed", "c", 17), ("flaky", "bad", 18), ("flaky", "good", 19), ("shadow", "v1", 20), ("cookie", "a", 21), ("cookie", "b", 22),
]  # fmt: skip


@dataclass
class World:
    """The client's sidecar and everything behind it."""

    proxy: tuple[str, int]
    upstreams: Mapping[str, Upstream]
    envoy: Running

    def get(self, url: str, method: str = "GET", **headers: str) -> Answer:
        return call(self.proxy, url, method=method, headers={k.replace("_", "-"): v for k, v in headers.items()})

    def reviews(self, path: str, method: str = "GET", **headers: str) -> Answer:
        return self.get(f"http://reviews.default.svc.cluster.local:9080{path}", method, **headers)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    net = lease()
    text = "".join(_SERVICES.replace("NAME", app) for app in dict.fromkeys(app for app, _, _ in _WORKLOADS))
    for app, version, last in _WORKLOADS:
        entry = _WORKLOAD.replace("NAME", f"{app}-{version}").replace("APP", app).replace("VERSION", version)
        text += entry.replace("LAST", str(last))
    mesh = Mesh(net, text=text + _RULES)
    upstreams = {
        f"{app}-{version}": Upstream(f"{app}-{version}", (f"{net}.{last}", 9080)) for app, version, last in _WORKLOADS
    }
    try:
        snapshot = mesh.snapshot("client")
        assert not snapshot.diagnostics
        with envoy(snapshot, tmp_path_factory.mktemp("routes"), identity(Authority(), "default", "client")) as running:
            yield World((f"{net}.10", 15001), upstreams, running)
    finally:
        for upstream in upstreams.values():
            upstream.close()


@pytest.mark.parametrize(
    ("path", "headers", "method", "rule"),
    [
        ("/exact", {}, "GET", "exact"),
        ("/exact/more", {}, "GET", "none"),
        ("/prefixed", {}, "GET", "prefix"),
        ("/Pre", {}, "GET", "none"),
        ("/r/abc?x=1", {}, "GET", "regex"),
        ("/r/abc/d", {}, "GET", "none"),
        ("/get", {}, "GET", "get"),
        ("/get", {}, "POST", "none"),
        ("/h", {"x-a": "1", "x-b": "whatever"}, "GET", "headers"),
        ("/h", {"x-a": "1"}, "GET", "none"),
        ("/h", {"x-a": "2", "x-b": "y"}, "GET", "none"),
        ("/wo", {}, "GET", "without"),
        ("/wo", {"x-v": "good"}, "GET", "without"),
        ("/wo", {"x-v": "bad"}, "GET", "none"),
        ("/wo", {"x-no": ""}, "GET", "none"),
        ("/q?a=1&b=xx&c", {}, "GET", "query"),
        ("/q?a=1&b=xx", {}, "GET", "none"),
        ("/q?a=2&b=xx&c", {}, "GET", "none"),
        ("/or", {"x-2": "1"}, "GET", "either"),
        ("/or", {}, "GET", "none"),
        ("/other", {}, "GET", "none"),
        ("/mine", {}, "GET", "mine"),
        ("/a/../prefix", {}, "GET", "prefix"),
    ],
)
def test_match(world: World, path: str, headers: Mapping[str, str], method: str, rule: str) -> None:
    answer = call(world.proxy, f"http://matches.example:9080{path}", method=method, headers=headers)
    assert answer.body.decode() == rule


@pytest.mark.parametrize(
    "host", ["reviews", "reviews.default", "reviews.default.svc", "reviews.default.svc.cluster.local"]
)
def test_every_name_of_a_service(world: World, host: str) -> None:
    assert world.get(f"http://{host}:9080/whole").json["path"] == "/all/of/it"


def test_canary_header_always_wins(world: World) -> None:
    assert {world.reviews("/x", x_test_cohort="canary").json["name"] for _ in range(50)} == {"reviews-v2"}


def test_weights(world: World) -> None:
    seen = Counter(world.reviews("/x").json["name"] for _ in range(400))
    assert set(seen) == {"reviews-v1", "reviews-v2"}
    assert 10 <= seen["reviews-v2"] <= 80  # 40 expected, standard deviation 6


@pytest.mark.parametrize(
    ("path", "arrives"),
    [
        ("/strip", "/"),
        ("/strip/a?q=1", "/a?q=1"),
        ("/swap/a/b?q=1", "/other/a/b?q=1"),
        ("/whole?q=1", "/all/of/it?q=1"),
        ("/any/thing", "/fixed"),
        ("/users/ann/cart", "/cart/of/ann"),
    ],
)
def test_rewrite(world: World, path: str, arrives: str) -> None:
    assert world.reviews(path).json["path"] == arrives


def test_authority_rewrite(world: World) -> None:
    assert world.reviews("/swap/a").json["headers"]["host"] == "rewritten.example"


def test_redirects_keep_the_query(world: World) -> None:
    moved, secure = world.reviews("/moved?a=1"), world.reviews("/secure/x?a=1")
    assert (moved.status, moved.headers["location"]) == (308, "http://other.example/new?a=1")
    assert secure.status == 301
    assert secure.headers["location"].startswith("https://reviews.default.svc.cluster.local")
    assert secure.headers["location"].endswith("/secure/x?a=1")


def test_headers(world: World) -> None:
    answer = world.reviews("/headers", x_set="old", x_add="one", x_gone="1")
    got = answer.json["headers"]
    assert got["x-set"] == "new"
    assert got["x-add"] in {"one,two", "two"}  # two header lines; the server's dict may keep only one
    assert "x-gone" not in got
    assert got["host"] == "set.example"
    assert answer.headers["x-answer"] == "100%"
    assert "x-upstream" not in answer.headers


def test_retry_reaches_the_other_host(world: World) -> None:
    for _ in range(20):
        answer = world.reviews("/retried", x_fail="pair-a")
        assert (answer.status, answer.json["name"]) == (200, "pair-b")


def test_timeout(world: World) -> None:
    assert world.reviews("/slow").status == 200
    assert world.reviews("/slow", x_delay="1").status == 504


def test_no_timeout_by_default(world: World) -> None:
    assert world.get("http://hashed:9080/", x_delay="1").status == 200


def test_delay_and_abort(world: World) -> None:
    begun = time.monotonic()
    assert world.reviews("/delayed").status == 200
    assert time.monotonic() - begun >= 0.35  # of 0.4 s: Envoy counts from the start of its event loop turn
    assert world.reviews("/aborted").status == 418


def test_mirror_keeps_the_host(world: World) -> None:
    shadow = world.upstreams["shadow-v1"]
    shadow.seen.clear()
    assert world.reviews("/mirrored").json["name"] == "reviews-v1"
    deadline = time.monotonic() + 60
    while not shadow.seen and time.monotonic() < deadline:
        time.sleep(0.02)  # the copy is sent without waiting for it
    assert [(path, headers["host"]) for _, path, headers in shadow.seen] == [
        ("/mirrored", "reviews.default.svc.cluster.local:9080")
    ]


def test_cors(world: World) -> None:
    for origin in ("https://a.example", "https://x.b.example"):
        preflight = world.reviews("/cors", "OPTIONS", Origin=origin, Access_Control_Request_Method="PUT")
        assert preflight.status == 200
        assert preflight.headers["access-control-allow-origin"] == origin
        assert preflight.headers["access-control-allow-methods"] == "GET,PUT"
        assert preflight.headers["access-control-max-age"] == "60"
        assert preflight.headers["access-control-allow-credentials"] == "true"
    actual = world.reviews("/cors", Origin="https://a.example")
    assert actual.headers["access-control-allow-origin"] == "https://a.example"
    strange = world.reviews("/cors", Origin="https://evil.example")
    assert "access-control-allow-origin" not in strange.headers


def test_direct_response_bytes(world: World) -> None:
    assert world.reviews("/bytes").body == b"\x00\x01\x02"


def test_unknown_destination_is_503(world: World) -> None:
    assert world.reviews("/nowhere").status == 503


def test_hash_by_header_sticks(world: World) -> None:
    homes = {
        user: {world.get("http://hashed:9080/", x_user=user).json["name"] for _ in range(5)}
        for user in map(str, range(30))
    }
    assert all(len(names) == 1 for names in homes.values())
    assert len(set().union(*homes.values())) == 3


def test_hash_by_generated_cookie_sticks(world: World) -> None:
    first = world.get("http://cookie:9080/")
    cookie = first.headers["set-cookie"].split(";")[0]
    assert cookie.startswith("session=")
    assert {world.get("http://cookie:9080/", Cookie=cookie).json["name"] for _ in range(10)} == {first.json["name"]}


def test_failing_host_is_ejected(world: World) -> None:
    world.upstreams["flaky-bad"].status = 500
    assert 500 in {world.get("http://flaky:9080/").status for _ in range(8)}
    assert {world.get("http://flaky:9080/").status for _ in range(20)} == {200}
