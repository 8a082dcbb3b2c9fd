"""What `analyze` finds: for each code, documents that trigger it and documents that come close but do not."""

from dataclasses import dataclass

from tests.mesh.views import doc, service, workload

A = "a.n.svc.cluster.local"
TWO_PORTS = "[{port: 80, name: http, targetPort: 8080}, {port: 81, name: http-more, targetPort: 8081}]"
OLD, YOUNG = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"


@dataclass(frozen=True)
class Trigger:
    """Documents with exactly one finding of `code`, at `path` of `resource`."""

    code: str
    severity: str
    resource: str
    path: str
    message: str
    hint: str
    documents: tuple[str, ...]
    mesh: str = ""

    @property
    def id(self) -> str:
        """A readable name of the test."""
        return f"{self.code} {self.resource} {self.path} {self.message}"[:100]


@dataclass(frozen=True)
class NearMiss:
    """Documents without a finding of `code`."""

    code: str
    why: str
    documents: tuple[str, ...]
    mesh: str = ""

    @property
    def id(self) -> str:
        """A readable name of the test."""
        return f"{self.code} {self.why}"


def vs(spec: str, key: str = "n/vs", created: str = "") -> str:
    """A VirtualService."""
    return doc(f"VirtualService/{key}", f"spec: {{{spec}}}", created=created)


def to(destination: str, hosts: str = "[x.corp]") -> str:
    """A VirtualService with one destination."""
    return vs(f"hosts: {hosts}, http: [{{route: [{{destination: {{{destination}}}}}]}}]")


def dr(spec: str, key: str = "n/dr") -> str:
    """A DestinationRule."""
    return doc(f"DestinationRule/{key}", f"spec: {{{spec}}}")


def rules(*matches: str) -> str:
    """A VirtualService whose rules have these `match` lists (none: an empty string)."""
    entries = [f"{{{f'match: {match}, ' if match else ''}route: [{{destination: {{host: a}}}}]}}" for match in matches]
    return vs(f"hosts: [a], http: [{', '.join(entries)}]")


def gateway(spec: str, key: str = "n/gw", created: str = "") -> str:
    """An Istio Gateway."""
    return doc(f"IstioGateway/{key}", f"spec: {{{spec}}}", created=created)


def server(number: int = 80, hosts: str = "['*']", tls: str = "", name: str = "http") -> str:
    """A server of an Istio Gateway."""
    protocol = "HTTPS" if tls else "HTTP"
    tail = f", tls: {{{tls}}}" if tls else ""
    return f"{{port: {{number: {number}, name: {name}, protocol: {protocol}}}, hosts: {hosts}{tail}}}"


def k8s_gateway(listeners: str = "[{name: http, port: 80, protocol: HTTP}]", key: str = "n/gw") -> str:
    """A Gateway API Gateway."""
    return doc(f"Gateway/{key}", f"spec: {{gatewayClassName: istio, listeners: {listeners}}}")


def route(backend: str = "{name: a, port: 80}", parent: str = "{name: gw}", key: str = "n/r", more: str = "") -> str:
    """An HTTPRoute."""
    return doc(f"HTTPRoute/{key}", f"spec: {{parentRefs: [{parent}], {more} rules: [{{backendRefs: [{backend}]}}]}}")


def policy(kind: str, spec: str, key: str = "n/p", created: str = "") -> str:
    """A policy of any kind."""
    return doc(f"{kind}/{key}", f"spec: {{{spec}}}", created=created)


def deployment(key: str = "n/a", labels: str = "{app: a}", ports: str = "[{name: http, containerPort: 8080}]") -> str:
    """A Deployment."""
    template = f"{{metadata: {{labels: {labels}}}, spec: {{containers: [{{name: c, image: i, ports: {ports}}}]}}}}"
    return doc(f"Deployment/{key}", f"spec: {{selector: {{matchLabels: {labels}}}, template: {template}}}")


SVC = service("n/a")
W = workload("n/w")
SELECTOR = "selector: {matchLabels: {app: a}}"
TYPO = "selector: {matchLabels: {app: aa-web}}"
WEB = workload("n/w", "{app: a-web}")
JWT = "jwtRules: [{issuer: i, jwks: '{}'}]"
STRICT = policy("PeerAuthentication", "mtls: {mode: STRICT}")
EDGE = workload("n/edge", "{app: edge}", "10.0.0.9")
LIMIT = "limits: [{name: x, requests: 1, per: second, descriptors: [{claim: {name: sub}}]}]"
GW_TARGET = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: gw}]"
GRANT = doc(
    "ReferenceGrant/m/g",
    "spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: n}], to: [{group: '', kind: Service}]}",
)
WILD = "['*.corp']"
THEIRS = "['m/*']"
OWN_WILD = "['n/*.corp']"
EDGE_GATEWAY = "selector: {app: edge}, servers: "
BY_CLAIM = vs(
    "hosts: [x.corp], gateways: [gw], http: [{match: [{headers: {'@request.auth.claims[sub]': {exact: y}}}], route: [{destination: {host: a}}]}]"
)

TRIGGERS = (
    # hosts
    Trigger("IST0101", "error", "VirtualService/n/vs", "spec.http[0].route[0].destination.host",
            "host b.n.svc.cluster.local does not exist", "declare a Service", (SVC, W, to("host: b"))),
    Trigger("IST0101", "error", "VirtualService/n/vs", "spec.http[0].route[0].destination.host",
            "host reveiws.n.svc.cluster.local", 'did you mean "reviews"?', (service("n/reviews"), W, to("host: reveiws"))),
    Trigger("IST0101", "error", "VirtualService/n/vs", "spec.http[0].route[0].destination.host",
            "host far.n.svc.cluster.local", 'a short name means a service of namespace n: did you mean "far.m.svc.cluster.local"?',
            (service("m/far"), workload("m/w"), to("host: far"))),
    Trigger("IST0101", "error", "VirtualService/n/vs", "spec.http[0].route[0].destination.host",
            "host far.m does not exist", 'write the full name: "far.m.svc.cluster.local"', (service("m/far"), workload("m/w"), to("host: far.m"))),
    Trigger("IST0101", "error", "VirtualService/n/vs", "spec.http[0].route[0].destination.host",
            "host far.m.svc does not exist", 'write the full name: "far.m.svc.cluster.local"', (service("m/far"), workload("m/w"), to("host: far.m.svc"))),
    Trigger("IST0101", "error", "VirtualService/n/vs", "spec.http[0].route[0].destination.host",
            "does not exist", "exportTo does not include namespace n",
            (service("m/far", annotations="{networking.istio.io/exportTo: .}"), workload("m/w"), to("host: far.m.svc.cluster.local"))),
    Trigger("IST0101", "info", "VirtualService/n/vs", "spec.http[0].route[0].destination.host",
            "host grafana.istio-system.svc.cluster.local does not exist", "", (SVC, W, to("host: grafana.istio-system.svc.cluster.local"))),
    Trigger("IST0101", "error", "VirtualService/n/vs", "spec.http[0].mirror.host", "host b.n", "",
            (SVC, W, vs("hosts: [a], http: [{route: [{destination: {host: a}}], mirror: {host: b}}]"))),
    Trigger("IST0101", "error", "VirtualService/n/vs", "spec.http[0].mirrors[0].destination.host", "host b.n", "",
            (SVC, W, vs("hosts: [a], http: [{route: [{destination: {host: a}}], mirrors: [{destination: {host: b}}]}]"))),
    Trigger("IST0101", "error", "VirtualService/n/vs", "spec.tcp[0].route[0].destination.host", "host b.n", "",
            (SVC, W, vs("hosts: [a], tcp: [{route: [{destination: {host: b}}]}]"))),
    Trigger("IST0101", "error", "VirtualService/n/vs", "spec.tls[0].route[0].destination.host", "host b.n", "",
            (SVC, W, vs("hosts: [x.corp], tls: [{match: [{sniHosts: [x.corp]}], route: [{destination: {host: b}}]}]"))),
    Trigger("IST0101", "error", "VirtualService/n/vs", "spec.http[0].route[0].destination.port.number",
            f"{A} has no port 8080", "its ports are 80", (SVC, W, to("host: a, port: {number: 8080}"))),
    Trigger("IST0101", "warning", "DestinationRule/n/dr", "spec.host",
            "host reveiws.n.svc.cluster.local does not exist", 'did you mean "reviews"?', (service("n/reviews"), W, dr("host: reveiws"))),
    # subsets, gateways, delegates
    Trigger("IST0101", "error", "VirtualService/n/vs", "spec.http[0].route[0].destination.subset",
            f"no DestinationRule defines subset v3 of {A}", "defined subsets: canary, stable",
            (SVC, W, dr("host: a, subsets: [{name: canary}, {name: stable}]"), to("host: a, subset: v3"))),
    Trigger("IST0101", "error", "VirtualService/n/vs", "spec.http[0].route[0].destination.subset",
            "subset canray", 'did you mean "canary"?', (SVC, W, dr("host: a, subsets: [{name: canary}]"), to("host: a, subset: canray"))),
    Trigger("IST0101", "error", "VirtualService/n/vs", "spec.http[0].route[0].destination.subset",
            "subset v1", f"add a DestinationRule for {A} with this subset", (SVC, W, to("host: a, subset: v1"))),
    Trigger("IST0101", "error", "VirtualService/n/vs", "spec.http[0].route[0].destination.subset",
            "subset v1", "", (SVC, W, dr(f"host: {A}, exportTo: ['.'], subsets: [{{name: v1}}]", "far/dr"), to("host: a, subset: v1"))),
    Trigger("IST0101", "error", "VirtualService/n/vs", "spec.gateways[0]", "Gateway n/edge-gw does not exist", 'did you mean "edge-gateway"?',
            (SVC, W, EDGE, gateway(EDGE_GATEWAY + "[]", "n/edge-gateway"), vs("hosts: [a], gateways: [edge-gw], http: [{route: [{destination: {host: a}}]}]"))),
    Trigger("IST0101", "error", "VirtualService/n/vs", "spec.gateways[0]", "Gateway n/gw does not exist", 'did you mean "m/gw"?',
            (SVC, W, EDGE, gateway(EDGE_GATEWAY + "[]", "m/gw"), vs("hosts: [a], gateways: [gw], http: [{route: [{destination: {host: a}}]}]"))),
    Trigger("IST0101", "error", "VirtualService/n/vs", "spec.gateways[0]", "Gateway n/gw does not exist", "attach an HTTPRoute",
            (SVC, W, k8s_gateway(), vs("hosts: [a], gateways: [gw], http: [{route: [{destination: {host: a}}]}]"))),
    Trigger("IST0101", "error", "VirtualService/n/vs", "spec.http[0].match[0].gateways[0]", "Gateway n/gw does not exist", "",
            (SVC, W, vs("hosts: [a], http: [{match: [{gateways: [gw]}], route: [{destination: {host: a}}]}]"))),
    Trigger("IST0101", "error", "VirtualService/n/vs", "spec.http[0].delegate.name", "VirtualService/m/child does not exist", "",
            (SVC, W, vs("hosts: [a], http: [{delegate: {name: child, namespace: m}}]"))),
    # gateways
    Trigger("IST0101", "error", "IstioGateway/n/gw", "spec.selector", "no workload has labels app=egde", "did you mean app: edge?",
            (EDGE, gateway(f"selector: {{app: egde}}, servers: [{server()}]"))),
    Trigger("IST0101", "warning", "IstioGateway/n/gw", "spec.selector", "istio=egressgateway", "declare a Gateway API Gateway",
            (EDGE, gateway(f"selector: {{istio: egressgateway}}, servers: [{server()}]"))),
    Trigger("IST0101", "warning", "IstioGateway/n/gw", "spec.servers[0].tls.credentialName", "Secret istio-system/cert does not exist", "",
            (gateway("selector: {istio: ingressgateway}, servers: "
                     f"[{server(443, tls='mode: SIMPLE, credentialName: cert')}]"),)),
    Trigger("IST0101", "warning", "IstioGateway/n/gw", "spec.servers[0].tls.credentialName", "Secret n/cert does not exist", "add the Secret",
            (EDGE, gateway(EDGE_GATEWAY + f"[{server(443, tls='mode: SIMPLE, credentialName: cert')}]"))),
    Trigger("IST0101", "warning", "IstioGateway/m/gw", "spec.servers[0].tls.credentialName", "Secret n/cert does not exist",
            "it exists in namespace m, but it must stand in n, where the gateway runs",
            (EDGE, doc("Secret/m/cert", "type: x"), gateway(EDGE_GATEWAY + f"[{server(443, tls='mode: SIMPLE, credentialName: cert')}]", "m/gw"))),
    Trigger("IST0101", "warning", "Gateway/n/gw", "spec.listeners[0].tls.certificateRefs[0].name", "Secret n/cert does not exist", "",
            (k8s_gateway("[{name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}]"),)),
    Trigger("IST0101", "error", "HTTPRoute/n/r", "spec.parentRefs[0].name", "Gateway n/gatewya does not exist", 'did you mean "gateway"?',
            (SVC, W, k8s_gateway(key="n/gateway"), route(parent="{name: gatewya}"))),
    Trigger("IST0101", "error", "HTTPRoute/n/r", "spec.parentRefs[0].name", "Gateway n/gw does not exist", "add namespace: m",
            (SVC, W, k8s_gateway(key="m/gw"), route())),
    Trigger("IST0101", "error", "HTTPRoute/n/r", "spec.parentRefs[0].name", "Gateway n/gw does not exist", "it takes VirtualServices",
            (SVC, W, EDGE, gateway(EDGE_GATEWAY + "[]"), route())),
    Trigger("IST0101", "error", "HTTPRoute/n/r", "spec.rules[0].backendRefs[0].name", "Service n/reveiws does not exist", 'did you mean "reviews"?',
            (service("n/reviews"), W, k8s_gateway(), route("{name: reveiws, port: 80}"))),
    Trigger("IST0101", "error", "HTTPRoute/n/r", "spec.rules[0].backendRefs[0].name", "Service n/far does not exist", "add namespace: m",
            (service("m/far"), workload("m/w"), k8s_gateway(), route("{name: far, port: 80}"))),
    Trigger("IST0101", "error", "HTTPRoute/n/r", "spec.rules[0].backendRefs[0].port", "Service n/a has no port 8080", "its ports are 80",
            (SVC, W, k8s_gateway(), route("{name: a, port: 8080}"))),
    Trigger("IST0101", "error", "HTTPRoute/n/r", "spec.rules[0].filters[0].requestMirror.backendRef.name", "Service n/b does not exist", "",
            (SVC, W, k8s_gateway(), doc("HTTPRoute/n/r", "spec: {parentRefs: [{name: gw}], rules: [{filters: [{type: RequestMirror, "
             "requestMirror: {backendRef: {name: b, port: 80}}}], backendRefs: [{name: a, port: 80}]}]}"))),
    Trigger("IST0101", "warning", "Gateway/n/gw", "spec.gatewayClassName", "GatewayClass isito does not exist", 'did you mean "istio"?',
            (k8s_gateway().replace("istio,", "isito,"),)),
    # policies
    Trigger("IST0101", "error", "AuthorizationPolicy/n/p", "spec.targetRefs[0].name", "Gateway n/gw does not exist", "",
            (policy("AuthorizationPolicy", GW_TARGET),)),
    Trigger("IST0101", "error", "AuthorizationPolicy/n/p", "spec.targetRefs[0].name", "Gateway n/gw", "in the namespace of its target",
            (k8s_gateway(key="m/gw"), policy("AuthorizationPolicy", GW_TARGET))),
    Trigger("IST0101", "error", "AuthorizationPolicy/n/p", "spec.provider.name", "extension provider opaa does not exist", "extensionProviders in mesh.yaml",
            (W, policy("AuthorizationPolicy", "action: CUSTOM, provider: {name: opaa}, rules: [{}]"))),
    Trigger("IST0101", "error", "AuthorizationPolicy/n/p", "spec.provider.name", "my-opa-athz", 'did you mean "my-opa-authz"?',
            (W, policy("AuthorizationPolicy", "action: CUSTOM, provider: {name: my-opa-athz}, rules: [{}]")),
            "extensionProviders: [{name: my-opa-authz, envoyExtAuthzGrpc: {service: opa.n.svc.cluster.local, port: 9191}}]"),
    Trigger("IST0101", "error", "Telemetry/n/p", "spec.tracing[0].providers[0].name", "extension provider zipkin does not exist", "",
            (policy("Telemetry", "tracing: [{providers: [{name: zipkin}]}]"),)),
    Trigger("IST0109", "error", "VirtualService/n/young", "spec.hosts[0]", "VirtualService/m/old has the same host", "into one VirtualService",
            (SVC, W, vs("hosts: [a], http: [{route: [{destination: {host: a}}]}]", "n/young", YOUNG),
             vs(f"hosts: [{A}], http: [{{route: [{{destination: {{host: {A}}}}}]}}]", "m/old", OLD))),
    Trigger("IST0110", "error", "Sidecar/n/young", "spec.workloadSelector.labels", "Sidecar/n/old selects w too", "",
            (W, policy("Sidecar", "workloadSelector: {labels: {app: a}}", "n/young", YOUNG), policy("Sidecar", "workloadSelector: {labels: {app: a}}", "n/old", OLD))),
    Trigger("IST0111", "error", "Sidecar/n/young", "metadata.name", "Sidecar/n/old speaks for the whole namespace too", "",
            (W, policy("Sidecar", "egress: [{hosts: ['./*']}]", "n/young", YOUNG), policy("Sidecar", "egress: [{hosts: ['./*']}]", "n/old", OLD))),
    Trigger("IST0112", "error", "VirtualService/n/vs", "spec.http[0].route[0].destination", "several ports", "one of 80, 81",
            (service("n/a", ports=TWO_PORTS), W, to("host: a"))),
    Trigger("IST0113", "error", "DestinationRule/n/dr", "spec.trafficPolicy.tls.mode", "DISABLE towards", "remove tls",
            (SVC, W, STRICT, dr("host: a, trafficPolicy: {tls: {mode: DISABLE}}"))),
    Trigger("IST0113", "error", "DestinationRule/n/dr", "spec.trafficPolicy.tls.mode", "PeerAuthentication/n/p makes it DISABLE", "",
            (SVC, W, policy("PeerAuthentication", "mtls: {mode: DISABLE}"), dr("host: a, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}"))),
    Trigger("IST0113", "error", "DestinationRule/n/dr", "spec.trafficPolicy.portLevelSettings[0].tls.mode", f"DISABLE towards {A}:81", "",
            (service("n/a", ports=TWO_PORTS), W, STRICT, dr("host: a, trafficPolicy: {portLevelSettings: [{port: {number: 81}, tls: {mode: DISABLE}}]}"))),
    Trigger("IST0118", "info", "Service/n/a", "spec.ports[0]", "port 80", "set appProtocol", (service("n/a", ports="[{port: 80, name: web}]"), W)),
    *(
        Trigger("IST0127", "warning", f"{kind}/n/p", "spec.selector.matchLabels", "no workload of namespace n has labels app=aa-web",
                "did you mean app: a-web?", (WEB, policy(kind, f"{TYPO}, {more}")))
        for kind, more in (
            ("AuthorizationPolicy", ""), ("RequestAuthentication", JWT), ("RateLimitPolicy", LIMIT), ("Telemetry", ""), ("PeerAuthentication", "mtls: {mode: STRICT}"),
            ("WasmPlugin", "url: a"), ("TrafficExtension", "lua: {inlineCode: a}"),
        )
    ),
    Trigger("IST0127", "info", "AuthorizationPolicy/n/p", "spec.selector.matchLabels", "app=later", "",
            (WEB, policy("AuthorizationPolicy", "selector: {matchLabels: {app: later}}"))),
    Trigger("IST0127", "warning", "AuthorizationPolicy/n/p", "spec.selector.matchLabels", "app=a", "a selector only acts in n",
            (workload("m/w"), policy("AuthorizationPolicy", SELECTOR))),
    Trigger("IST0127", "warning", "PeerAuthentication/istio-system/p", "spec.selector.matchLabels", "no effect in the root namespace", "",
            (W, policy("PeerAuthentication", f"{SELECTOR}, mtls: {{mode: STRICT}}", "istio-system/p"))),
    Trigger("IST0127", "warning", "Sidecar/n/p", "spec.workloadSelector.labels", "app=aa-web", "did you mean app: a-web?",
            (WEB, policy("Sidecar", "workloadSelector: {labels: {app: aa-web}}"))),
    Trigger("IST0127", "warning", "ServiceEntry/n/p", "spec.workloadSelector.labels", "app=aa-web", "did you mean app: a-web?",
            (WEB, policy("ServiceEntry", "hosts: [x.corp], location: MESH_INTERNAL, resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], "
                         "workloadSelector: {labels: {app: aa-web}}"))),
    Trigger("IST0130", "warning", "VirtualService/n/vs", "spec.http[1]", "rule 2 is never used: rule 1", "move it before",
            (SVC, W, rules("", "[{uri: {prefix: /x}}]"))),
    Trigger("IST0130", "warning", "VirtualService/n/vs", "spec.http[1]", "rule 2 is never used", "",
            (SVC, W, rules("[{uri: {prefix: /api}}]", "[{uri: {exact: /api/v1}, headers: {x: {exact: y}}}]"))),
    Trigger("IST0130", "warning", "VirtualService/n/vs", "spec.http[1]", "rule 2 is never used", "",
            (SVC, W, rules("[{uri: {regex: '.*'}}]", "[{uri: {regex: '/a.*'}}]"))),
    Trigger("IST0130", "warning", "VirtualService/n/vs", "spec.tcp[1]", "rule 2 is never used", "",
            (SVC, W, vs("hosts: [a], tcp: [{route: [{destination: {host: a}}]}, {match: [{port: 80}], route: [{destination: {host: a}}]}]"))),
    Trigger("IST0130", "warning", "VirtualService/n/vs", "spec.tls[1]", "rule 2 is never used", "",
            (SVC, W, vs("hosts: [x.corp], tls: [" + ", ".join(["{match: [{sniHosts: [x.corp]}], route: [{destination: {host: a}}]}"] * 2) + "]"))),
    Trigger("IST0131", "info", "VirtualService/n/vs", "spec.http[1].match[1]", "rule 1 already matches the same requests", "",
            (SVC, W, rules("[{uri: {prefix: /api}}]", "[{uri: {prefix: /web}}, {uri: {prefix: /api/v1}}]"))),
    Trigger("IST0132", "warning", "VirtualService/n/vs", "spec.hosts[1]", "no server of Gateway n/gw serves y.org", "it serves *.corp",
            (SVC, W, EDGE, gateway(EDGE_GATEWAY + f"[{server(hosts=WILD)}]"),
             vs("hosts: [x.corp, y.org], gateways: [gw], http: [{route: [{destination: {host: a}}]}]"))),
    Trigger("IST0132", "warning", "VirtualService/n/vs", "spec.hosts[0]", "no server of Gateway n/gw serves x.corp", "it serves m/*",
            (SVC, W, EDGE, gateway(EDGE_GATEWAY + f"[{server(hosts=THEIRS)}]"), vs("hosts: [x.corp], gateways: [gw], http: [{route: [{destination: {host: a}}]}]"))),
    Trigger("IST0134", "warning", "ServiceEntry/n/p", "spec.ports[0].protocol", "port 9000 carries TCP", "set addresses",
            (policy("ServiceEntry", "hosts: [x.corp], resolution: DNS, ports: [{number: 9000, name: tcp, protocol: TCP}]"),)),
    Trigger("IST0145", "error", "IstioGateway/n/young", "spec.servers[0].hosts[0]", "IstioGateway/m/old already serves host x.corp on port 80", "merge both",
            (EDGE, gateway(EDGE_GATEWAY + f"[{server(hosts='[x.corp]')}]", "n/young", YOUNG), gateway(EDGE_GATEWAY + f"[{server(hosts='[x.corp]')}]", "m/old", OLD))),
    Trigger("IST0149", "error", "VirtualService/n/vs", "spec.http[0].match[0].headers.@request.auth.claims[sub]", "@request.auth.claims[sub] is never known at n/edge", "selects the gateway",
            (SVC, W, EDGE, gateway(EDGE_GATEWAY + f"[{server()}]"), BY_CLAIM)),
    Trigger("IST0173", "warning", "DestinationRule/n/dr", "spec.subsets[0].labels", "subset v9 selects no endpoint", "v of the endpoints is 1",
            (SVC, workload("n/w", "{app: a, v: '1'}"), dr("host: a, subsets: [{name: v9, labels: {v: '9'}}]"))),
    # ours
    Trigger("LTN0201", "error", "HTTPRoute/n/r", "spec.parentRefs[0]", "not attached (NoMatchingListenerHostname): Gateway n/gw serves a.com", "",
            (SVC, W, k8s_gateway("[{name: http, port: 80, protocol: HTTP, hostname: a.com}]"), route(more="hostnames: [b.com],"))),
    Trigger("LTN0201", "error", "HTTPRoute/n/r", "spec.parentRefs[0]", "not attached (NoMatchingParent): Gateway n/gw has no listener named https", "",
            (SVC, W, k8s_gateway(), route(parent="{name: gw, sectionName: https}"))),
    Trigger("LTN0201", "error", "HTTPRoute/n/r", "spec.parentRefs[0]", "not attached (NotAllowedByListeners)", "",
            (SVC, W, k8s_gateway(key="m/gw"), route(parent="{name: gw, namespace: m}"))),
    Trigger("LTN0202", "error", "HTTPRoute/n/r", "spec.rules[0].backendRefs[0].name", "no ReferenceGrant in namespace m", "add a ReferenceGrant to namespace m",
            (service("m/a"), workload("m/w"), k8s_gateway(), route("{name: a, namespace: m, port: 80}"))),
    Trigger("LTN0202", "error", "Gateway/n/gw", "spec.listeners[0].tls.certificateRefs[0].namespace", "no ReferenceGrant in namespace m", "copy the Secret",
            (doc("Secret/m/cert", "type: x"), k8s_gateway("[{name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert, namespace: m}]}}]"))),
    Trigger("LTN0203", "error", "HTTPRoute/n/r", "spec.rules[0].backendRefs[0].kind", "a backend must be a Service, not a Bucket", "",
            (k8s_gateway(), route("{group: example.com, kind: Bucket, name: a}"))),
    Trigger("LTN0203", "warning", "HTTPRoute/n/r", "spec.parentRefs[0].kind", "a route attaches to Gateways only", "",
            (SVC, W, route(parent="{group: '', kind: Service, name: a}"))),
    Trigger("LTN0204", "warning", "RequestAuthentication/n/p", "spec.jwtRules", "requests without a token are let through to n/w", 'requestPrincipals: ["*"]',
            (W, policy("RequestAuthentication", JWT))),
    Trigger("LTN0205", "warning", "RateLimitPolicy/n/p", "spec.limits[0].descriptors[0].claim", "claim sub is never known at n/w", "add a RequestAuthentication",
            (W, policy("RateLimitPolicy", LIMIT))),
    Trigger("LTN0206", "warning", "PeerAuthentication/n/p", "spec.portLevelMtls.80", "port 80 is not a port of the workloads selected", "not the Service's: 8080",
            (SVC, W, policy("PeerAuthentication", f"{SELECTOR}, portLevelMtls: {{80: {{mode: DISABLE}}}}"))),
    Trigger("LTN0207", "error", "Gateway/n/gw", "spec.listeners[1].protocol", "(ProtocolConflict)", "",
            (k8s_gateway("[{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: HTTPS, tls: {certificateRefs: [{name: c}]}}]"),)),
    Trigger("LTN0207", "warning", "Gateway/n/gw", "spec.listeners[0].protocol", "(UnsupportedProtocol)", "", (k8s_gateway("[{name: a, port: 80, protocol: TCP}]"),)),
    Trigger("LTN0207", "warning", "Gateway/n/gw", "spec.listeners[0].allowedRoutes.kinds", "(InvalidRouteKinds)", "",
            (k8s_gateway("[{name: a, port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: GRPCRoute}]}}]"),)),
    Trigger("LTN0207", "warning", "Gateway/n/gw", "spec.gatewayClassName", "class istio-waypoint are not served yet", "",
            (k8s_gateway().replace("istio,", "istio-waypoint,"),)),
    Trigger("LTN0208", "error", "IstioGateway/n/gw", "spec.servers[1].port.number", "port 8080 and port 80 of n/edge are both bound at 8080", "8000 higher",
            (EDGE, gateway(EDGE_GATEWAY + f"[{server(80)}, {server(8080, name='other')}]"))),
    Trigger("LTN0208", "error", "IstioGateway/n/plain", "spec.servers[0].port.number", "port 8443 and port 443 of n/gw-istio", "",
            (doc("Secret/n/c", "type: x"), k8s_gateway("[{name: b, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: c}]}}]"),
             gateway(f"selector: {{gateway.networking.k8s.io/gateway-name: gw}}, servers: [{server(8443)}]", "n/plain"))),
    Trigger("LTN0209", "warning", "AuthorizationPolicy/n/p", "spec.targetRefs[0].kind", "a target of kind Service speaks to waypoints only", "select the workloads",
            (SVC, W, policy("AuthorizationPolicy", "targetRefs: [{kind: Service, name: a}]"))),
    Trigger("LTN0209", "warning", "RequestAuthentication/n/p", "spec.targetRef.kind", "a target of kind Service", "",
            (policy("RequestAuthentication", "targetRef: {kind: Service, name: a}"),)),
    Trigger("LTN0210", "warning", "Service/n/a", "spec.selector", "no workload of namespace n has labels app=aa-web", "did you mean app: a-web?",
            (service("n/a", "{app: aa-web}"), WEB)),
    Trigger("LTN0210", "info", "Service/istio-system/a", "spec.selector", "no workload", "", (service("istio-system/a"),)),
    Trigger("LTN0211", "warning", "Service/n/a", "spec.ports[0].targetPort", "no workload has a port named web-ui", "their ports are named http",
            (service("n/a", ports="[{port: 80, name: http, targetPort: web-ui}]"), workload("n/w", extra="ports: {http: 8080}"))),
)  # fmt: skip

NEAR_MISSES = (
    NearMiss("IST0101", "a short name, a full name and another case", (SVC, W, to("host: a"), vs(f"hosts: [y.corp], http: [{{route: [{{destination: {{host: {A}}}}}]}}]", "m/vs"), to("host: A", "[z.corp]"))),
    NearMiss("IST0101", "a ServiceEntry's wildcard", (policy("ServiceEntry", "hosts: ['*.corp'], ports: [{number: 80, name: http, protocol: HTTP}]"), to("host: api.corp"))),
    NearMiss("IST0101", "the Service a Gateway brings", (k8s_gateway(), to("host: gw-istio"))),
    NearMiss("IST0101", "a subset that a rule of the root namespace defines", (SVC, W, dr(f"host: {A}, subsets: [{{name: v1}}]", "istio-system/dr"), to("host: a, subset: v1"))),
    NearMiss("IST0101", "a subset that a wildcard rule defines", (SVC, W, dr("host: '*.n.svc.cluster.local', subsets: [{name: v1}]"), to("host: a, subset: v1"))),
    NearMiss("IST0101", "a rule for all hosts of the mesh", (dr("host: '*.local'"),)),
    NearMiss("IST0101", "mesh and a full gateway name", (SVC, W, EDGE, gateway(EDGE_GATEWAY + f"[{server()}]", "m/gw"), vs("hosts: [a], gateways: [mesh, m/gw], http: [{route: [{destination: {host: a}}]}]"))),
    NearMiss("IST0101", "a delegate that exists", (SVC, W, vs("hosts: [a], http: [{delegate: {name: child}}]"), vs("http: [{route: [{destination: {host: a}}]}]", "n/child"))),
    NearMiss("IST0101", "a gateway for all workloads", (EDGE, gateway(f"servers: [{server()}]"))),
    NearMiss("IST0101", "a gateway of a Gateway API Gateway that no replica serves yet", (k8s_gateway(), gateway(f"selector: {{gateway.networking.k8s.io/gateway-name: gw}}, servers: [{server(81)}]", "n/plain"))),
    NearMiss("IST0101", "a Secret where the gateway runs", (EDGE, doc("Secret/n/cert", "type: x"), gateway(EDGE_GATEWAY + f"[{server(443, tls='mode: SIMPLE, credentialName: cert')}]", "m/gw"))),
    NearMiss("IST0101", "a parent in another namespace", (SVC, W, k8s_gateway("[{name: h, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}]", "m/gw"), route(parent="{name: gw, namespace: m}"))),
    NearMiss("IST0101", "a declared provider, and one that Istio has built in", (W, policy("AuthorizationPolicy", "action: CUSTOM, provider: {name: opa}, rules: [{}]"), policy("Telemetry", "metrics: [{providers: [{name: prometheus}]}]")),
             "extensionProviders: [{name: opa, envoyExtAuthzGrpc: {service: opa.n.svc.cluster.local, port: 9191}}]"),
    NearMiss("IST0101", "a target that exists", (k8s_gateway(), policy("AuthorizationPolicy", GW_TARGET))),
    NearMiss("IST0101", "a class that is declared, and one to come", (k8s_gateway().replace("istio,", "nginx,"), doc("GatewayClass/nginx", "spec: {controllerName: example.com/c}"), k8s_gateway(key="n/w").replace("istio,", "istio-waypoint,"))),
    NearMiss("IST0109", "the same host on a gateway only", (SVC, W, EDGE, gateway(EDGE_GATEWAY + f"[{server()}]"), rules(""), vs("hosts: [a], gateways: [gw], http: [{route: [{destination: {host: a}}]}]", "n/other"))),
    NearMiss("IST0109", "no client sees both", (SVC, W, vs("hosts: [x.corp], exportTo: ['.'], http: [{route: [{destination: {host: a}}]}]"), vs(f"hosts: [x.corp], exportTo: ['.'], http: [{{route: [{{destination: {{host: {A}}}}}]}}]", "m/vs"))),
    NearMiss("IST0109", "the same short name in two namespaces", (SVC, W, service("m/a"), rules(""), vs("hosts: [a], http: [{route: [{destination: {host: a}}]}]", "m/vs"))),
    NearMiss("IST0110", "selectors that exclude one another", (W, workload("n/v", "{app: b}"), policy("Sidecar", "workloadSelector: {labels: {app: a}}"), policy("Sidecar", "workloadSelector: {labels: {app: b}}", "n/q"))),
    NearMiss("IST0110", "another namespace", (W, workload("m/w"), policy("Sidecar", "workloadSelector: {labels: {app: a}}"), policy("Sidecar", "workloadSelector: {labels: {app: a}}", "m/p"))),
    NearMiss("IST0111", "one for each namespace", (W, policy("Sidecar", "egress: [{hosts: ['./*']}]"), policy("Sidecar", "egress: [{hosts: ['./*']}]", "m/p"), policy("Sidecar", "workloadSelector: {labels: {app: a}}", "n/q"))),
    NearMiss("IST0112", "one port, or the port is said", (SVC, service("n/b", ports=TWO_PORTS), W, to("host: a"), vs("hosts: [y.corp], http: [{route: [{destination: {host: b, port: {number: 81}}}]}]", "n/vs2"))),
    NearMiss("IST0113", "PERMISSIVE takes both", (SVC, W, dr("host: a, trafficPolicy: {tls: {mode: DISABLE}}"))),
    NearMiss("IST0113", "mutual TLS where it is demanded", (SVC, W, STRICT, dr("host: a, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}"))),
    NearMiss("IST0113", "the port with its own setting is another one", (SVC, W, STRICT, dr("host: a, trafficPolicy: {tls: {mode: DISABLE}, portLevelSettings: [{port: {number: 80}, tls: {mode: ISTIO_MUTUAL}}]}"))),
    NearMiss("IST0118", "a prefix, or appProtocol", (service("n/a", ports="[{port: 80, name: tcp-web}]"), service("n/b", ports="[{port: 80, name: web, appProtocol: http}]"), W)),
    NearMiss("IST0127", "from the root namespace a selector acts everywhere", (W, policy("AuthorizationPolicy", SELECTOR, "istio-system/p"))),
    NearMiss("IST0127", "no selector", (policy("AuthorizationPolicy", ""), policy("PeerAuthentication", "mtls: {mode: STRICT}"))),
    NearMiss("IST0127", "a Deployment that no replica runs yet", (deployment(), policy("AuthorizationPolicy", SELECTOR), policy("Sidecar", "workloadSelector: {labels: {app: a}}"))),
    NearMiss("IST0130", "the narrower rule first", (SVC, W, rules("[{uri: {exact: /x}}]", "[{uri: {prefix: /x}}]", ""))),
    NearMiss("IST0130", "the earlier rule asks for more", (SVC, W, rules("[{uri: {prefix: /}, headers: {x: {exact: y}}}]", "[{uri: {prefix: /x}}]"))),
    NearMiss("IST0130", "the earlier rule is for another port, method, source or gateway", (SVC, W, rules("[{port: 80}]", "[{method: {exact: GET}}]", "[{sourceLabels: {app: z}}]", "[{sourceNamespace: m}]", "[{gateways: [mesh]}]", ""))),
    NearMiss("IST0130", "a prefix is no regex, and case matters", (SVC, W, rules("[{uri: {prefix: /a}}]", "[{uri: {regex: '/a.*'}}]", "[{uri: {exact: /A/b}}]", "[{uri: {exact: /a/c}, ignoreUriCase: true}]"))),
    NearMiss("IST0131", "different matches", (SVC, W, rules("[{uri: {prefix: /a}}, {uri: {prefix: /b}}]", "[{uri: {prefix: /c}}]"))),
    NearMiss("IST0132", "a part of what the gateway serves, and more than it", (SVC, W, EDGE, gateway(EDGE_GATEWAY + f"[{server(hosts=OWN_WILD)}]"), vs("hosts: [x.corp, '*'], gateways: [gw], http: [{route: [{destination: {host: a}}]}]"))),
    NearMiss("IST0134", "addresses, or a protocol that names its host", (policy("ServiceEntry", "hosts: [x.corp], resolution: DNS, addresses: [240.0.0.1], ports: [{number: 9000, name: tcp, protocol: TCP}]"),
             policy("ServiceEntry", "hosts: [y.corp], resolution: DNS, ports: [{number: 443, name: tls, protocol: TLS}, {number: 80, name: http, protocol: HTTP}]", "n/q"))),
    NearMiss("IST0145", "another host, port or selector", (EDGE, W, gateway(EDGE_GATEWAY + f"[{server(hosts='[x.corp]')}, {server(81, hosts='[y.corp]', name='b')}]"), gateway(EDGE_GATEWAY + f"[{server(hosts='[y.corp]')}]", "n/g2"), gateway(f"selector: {{app: a}}, servers: [{server(hosts='[x.corp]')}]", "n/g3"))),
    NearMiss("IST0149", "the gateway verifies tokens", (SVC, W, EDGE, gateway(EDGE_GATEWAY + f"[{server()}]"), BY_CLAIM, policy("RequestAuthentication", f"selector: {{matchLabels: {{app: edge}}}}, {JWT}"))),
    NearMiss("IST0149", "another header", (SVC, W, EDGE, gateway(EDGE_GATEWAY + f"[{server()}]"), BY_CLAIM.replace("@request.auth.claims[sub]", "x-sub"))),
    NearMiss("IST0173", "labels of a replica, none at all, and topology", (SVC, workload("n/w", "{app: a, v: '1'}"), dr("host: a, subsets: [{name: v1, labels: {v: '1'}}, {name: all}, {name: near, labels: {topology.istio.io/network: x}}]"))),
    NearMiss("IST0173", "a service nobody runs is reported itself", (SVC, dr("host: a, subsets: [{name: v1, labels: {v: '1'}}]"))),
    NearMiss("LTN0201", "a wildcard listener", (SVC, W, k8s_gateway("[{name: http, port: 80, protocol: HTTP, hostname: '*.com'}]"), route(more="hostnames: [b.com],"))),
    NearMiss("LTN0201", "a gateway of another controller", (SVC, W, doc("Gateway/n/gw", "spec: {gatewayClassName: nginx, listeners: [{name: h, port: 80, protocol: HTTP}]}"), route(parent="{name: gw, sectionName: odd}"))),
    NearMiss("LTN0202", "with a grant", (service("m/a"), workload("m/w"), GRANT, k8s_gateway(), route("{name: a, namespace: m, port: 80}"))),
    NearMiss("LTN0203", "a Service", (SVC, W, k8s_gateway(), route())),
    NearMiss("LTN0204", "requestPrincipals", (W, policy("RequestAuthentication", JWT), policy("AuthorizationPolicy", "rules: [{from: [{source: {requestPrincipals: ['*']}}]}]"))),
    NearMiss("LTN0204", "a denial of requests without a token", (W, policy("RequestAuthentication", JWT), policy("AuthorizationPolicy", "action: DENY, rules: [{from: [{source: {notRequestPrincipals: ['*']}}]}]"))),
    NearMiss("LTN0204", "presence", (W, policy("RequestAuthentication", "jwtRules: [{issuer: a, presence: REQUIRED}]"))),
    NearMiss("LTN0204", "a condition on a claim", (W, policy("RequestAuthentication", JWT), policy("AuthorizationPolicy", "rules: [{when: [{key: 'request.auth.claims[scope]', values: [x]}]}]"))),
    NearMiss("LTN0205", "tokens are verified", (W, policy("RequestAuthentication", JWT), policy("RateLimitPolicy", LIMIT))),
    NearMiss("LTN0205", "no claims", (W, policy("RateLimitPolicy", "limits: [{name: x, requests: 1, per: second, descriptors: [{header: {name: y}}]}]"))),
    NearMiss("LTN0206", "the workload's port", (SVC, W, policy("PeerAuthentication", f"{SELECTOR}, portLevelMtls: {{8080: {{mode: DISABLE}}}}"))),
    NearMiss("LTN0206", "a port of no Service", (workload("n/w", extra="ports: {metrics: 9090}"), policy("PeerAuthentication", f"{SELECTOR}, portLevelMtls: {{9090: {{mode: DISABLE}}}}"))),
    NearMiss("LTN0207", "two hosts on one port", (k8s_gateway("[{name: a, port: 80, protocol: HTTP, hostname: a.com}, {name: b, port: 80, protocol: HTTP, hostname: b.com}]"),)),
    NearMiss("LTN0208", "the same port twice, and ports that stay apart", (EDGE, gateway(EDGE_GATEWAY + f"[{server(80)}, {server(8081, name='b')}]"), gateway(EDGE_GATEWAY + f"[{server(80, hosts='[x.corp]')}]", "n/g2"))),
    NearMiss("LTN0209", "a Gateway", (k8s_gateway(), policy("AuthorizationPolicy", GW_TARGET))),
    NearMiss("LTN0210", "a WorkloadEntry, a Pod, a Deployment, a WorkloadGroup", (
        SVC, W, service("n/b", "{app: b}"), doc("Pod/n/b", "spec: {containers: [{name: c}]}", labels="{app: b}"), service("n/c", "{app: c}"), deployment("n/c", "{app: c}"),
        service("n/d", "{app: d}"), doc("WorkloadGroup/n/d", "spec: {metadata: {labels: {app: d}}, template: {ports: {http: 80}}}"))),
    NearMiss("LTN0210", "no selector, and an alias", (doc("Service/n/a", "spec: {ports: [{port: 80, name: http}]}"), doc("Service/n/b", "spec: {type: ExternalName, externalName: x.corp, selector: {app: z}}"))),
    NearMiss("LTN0211", "a replica that is unhealthy", (SVC, workload("n/w") + "status: {conditions: [{type: Healthy, status: 'False'}]}\n")),
    NearMiss("LTN0211", "a named port of the container", (service("n/a", ports="[{port: 80, name: http, targetPort: http}]"), deployment())),
    NearMiss("LTN0211", "a number that no container declares", (service("n/a", ports="[{port: 80, name: http, targetPort: 9999}]"), deployment())),
)  # fmt: skip
