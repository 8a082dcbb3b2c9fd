"""What `analyze` finds about AuthorizationPolicies that do not do what they look like."""

from tests.mesh.analysis_cases import OLD, STRICT, SVC, YOUNG, NearMiss, Trigger, W, gateway, k8s_gateway, policy
from tests.mesh.views import doc, service, workload

TCP_SVC = service(
    "n/a", ports="[{port: 80, name: http, targetPort: 8080}, {port: 6379, name: tcp-redis, targetPort: 6379}]"
)
NONE = doc("AuthorizationPolicy/n/none", "spec: {action: DENY, rules: [{}]}")
GW_W = workload("n/g", "{gateway.networking.k8s.io/gateway-name: gw, app: g}", "10.0.0.9")
GW_SVC = service("n/g", "{app: g}", "[{port: 443, name: https, targetPort: 8443}]")
W2 = workload("n/w2", "{app: b}", "10.0.0.2")
GET = "rules: [{to: [{operation: {methods: [GET]}}]}]"


def ap(spec: str, name: str = "p", **more: str) -> str:
    """An AuthorizationPolicy."""
    return doc(f"AuthorizationPolicy/n/{name}", f"spec: {{{spec}}}", **more)


def sources(source: str, action: str = "ALLOW") -> str:
    """A policy with one rule about the source."""
    return ap(f"action: {action}, rules: [{{from: [{{source: {{{source}}}}}]}}]")


P = "AuthorizationPolicy/n/p"
FROM = "spec.rules[0].from[0].source."
TRIGGERS = (
    Trigger("LTN0220", "warning", P, "spec.rules[0].to[0].operation.methods",
            "port 6379 of n/w carries TCP and has no HTTP attributes: there the rule never matches", "to.operation.ports",
            (TCP_SVC, W, STRICT, ap(GET))),
    Trigger("LTN0220", "warning", P, "spec.rules[1].when[0].key", "there the rule denies without them", "",
            (TCP_SVC, W, STRICT, ap("action: DENY, rules: [{from: [{source: {namespaces: [x]}}]}, {when: [{key: 'request.headers[a]', values: [b]}]}]"))),
    Trigger("LTN0220", "warning", P, FROM + "requestPrincipals", "never matches", "",
            (TCP_SVC, W, STRICT, ap("action: AUDIT, rules: [{from: [{source: {requestPrincipals: ['*']}}], to: [{operation: {ports: ['6379']}}]}]"))),
    Trigger("LTN0220", "warning", P, "spec.rules[0].to[0].operation.methods", "port 8443 of n/g carries TCP", "",
            (GW_SVC, GW_W, k8s_gateway("[{name: tls, port: 443, protocol: TLS, tls: {mode: Passthrough}}]"), STRICT, ap(GET))),
    Trigger("LTN0220", "warning", P, "spec.rules[0].to[0].operation.methods", "port 8443 of n/g carries TCP", "",
            (GW_SVC, workload("n/g", "{app: g}"), gateway("selector: {app: g}, servers: [{port: {number: 443, name: t, protocol: TLS}, hosts: ['*'], tls: {mode: PASSTHROUGH}}]"), STRICT, ap(GET))),
    Trigger("LTN0221", "warning", P, FROM + "notPrincipals", "so this allows them: n/w takes plaintext (mutual TLS is PERMISSIVE)", "STRICT",
            (SVC, W, sources("notPrincipals: [evil]"))),
    Trigger("LTN0221", "warning", P, "spec.rules[0].when[0].key", "so this allows them", "",
            (SVC, W, ap("rules: [{when: [{key: source.namespace, notValues: [evil]}]}]"))),
    Trigger("LTN0222", "warning", P, FROM + "namespaces", "so this passes them over: n/w takes plaintext", "STRICT",
            (SVC, W, sources("namespaces: [evil]", "DENY"))),
    Trigger("LTN0222", "info", P, FROM + "principals", "so this does not allow them", "", (SVC, W, sources("principals: [good]"))),
    Trigger("LTN0222", "warning", P, FROM + "principals", "never matches: mutual TLS is DISABLE", "",
            (SVC, W, policy("PeerAuthentication", "mtls: {mode: DISABLE}").replace("name: p", "name: pa"), sources("principals: [good]"))),
    Trigger("LTN0223", "warning", P, "spec.rules", "AuthorizationPolicy/n/none denies every request to n/w", "remove one", (SVC, W, ap(GET), NONE)),
    Trigger("LTN0223", "warning", P, "spec.rules", "AuthorizationPolicy/n/all allows every request to n/w", "remove one",
            (SVC, W, ap(GET), ap("rules: [{}]", "all"))),
    Trigger("LTN0223", "warning", "AuthorizationPolicy/n/young", "spec.rules", "AuthorizationPolicy/n/all allows every request to n/w", "",
            (SVC, W, ap("rules: [{}]", "young", created=YOUNG), ap("rules: [{}]", "all", created=OLD))),
    Trigger("LTN0224", "info", P, "spec", "n/w denies every request", "rules: [{}]", (SVC, W, ap(""))),
)  # fmt: skip

NEAR_MISSES = (
    NearMiss("LTN0220", "a rule for the HTTP port", (TCP_SVC, W, ap("rules: [{to: [{operation: {methods: [GET], ports: ['8080']}}]}]"))),
    NearMiss("LTN0220", "a condition on the port",
             (TCP_SVC, W, ap("rules: [{to: [{operation: {methods: [GET]}}], when: [{key: destination.port, notValues: ['6379']}]}]"))),
    NearMiss("LTN0220", "a gateway that ends TLS",
             (GW_SVC, GW_W, k8s_gateway("[{name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: c}]}}]"), STRICT, ap(GET))),
    NearMiss("LTN0220", "a gateway of Istio's that ends TLS",
             (GW_SVC, workload("n/g", "{app: g}"), gateway("selector: {app: g}, servers: [{port: {number: 443, name: h, protocol: HTTPS}, hosts: ['*'], tls: {mode: SIMPLE, credentialName: c}}]"), STRICT, ap(GET))),
    NearMiss("LTN0220", "no HTTP fields", (TCP_SVC, W, sources("namespaces: [x]"))),
    NearMiss("LTN0220", "a workload with HTTP ports only",
             (TCP_SVC, W, service("n/b", "{app: b}"), W2, ap(f"selector: {{matchLabels: {{app: b}}}}, {GET}"))),
    NearMiss("LTN0221", "mutual TLS is STRICT", (SVC, W, STRICT, sources("notPrincipals: [evil]"))),
    NearMiss("LTN0221", "with an identity that is wanted too", (SVC, W, sources("principals: ['*'], notPrincipals: [evil]"))),
    NearMiss("LTN0221", "a denial", (SVC, W, sources("notPrincipals: ['*']", "DENY"))),
    NearMiss("LTN0222", "mutual TLS is STRICT", (SVC, W, STRICT, sources("namespaces: [evil]", "DENY"))),
    NearMiss("LTN0222", "a denial of those without an identity", (SVC, W, sources("notPrincipals: ['*']", "DENY"))),
    NearMiss("LTN0222", "no identity is asked for", (SVC, W, sources("ipBlocks: [10.0.0.0/8]", "DENY"))),
    NearMiss("LTN0223", "dry-run denies nothing",
             (SVC, W, ap(GET), ap("action: DENY, rules: [{}]", "none", annotations="{istio.io/dry-run: 'true'}"))),
    NearMiss("LTN0223", "it also applies where nothing overrules it",
             (SVC, W, W2, ap(GET), ap("selector: {matchLabels: {app: a}}, action: DENY, rules: [{}]", "none"))),
    NearMiss("LTN0223", "one for all, and a denial beside it",
             (SVC, W, ap("rules: [{}]"), ap("action: DENY, rules: [{to: [{operation: {methods: [PUT]}}]}]", "d"))),
    NearMiss("LTN0224", "another policy allows something", (SVC, W, ap(""), ap(GET, "some"))),
    NearMiss("LTN0224", "a denial without rules", (SVC, W, ap("action: DENY"))),
)  # fmt: skip
