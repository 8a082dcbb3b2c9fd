"""AuthorizationPolicy by the book: a slow evaluator written straight from Istio's reference of AuthorizationPolicy, to hold the compiled one against.

It shares no code with `lateen.policy` except the values it is asked about: no tables, no indexes, no compiling, one `if` per sentence.
"""

import ipaddress
import re
from collections.abc import Callable, Sequence

from lateen.mesh.authorizationpolicy import Action, Operation, Rule, Source
from lateen.policy.compile import AttachedPolicy
from lateen.policy.request import CheckInput

HTTP_SOURCE_FIELDS = ("request_principals", "not_request_principals")
HTTP_OPERATION_FIELDS = ("hosts", "not_hosts", "methods", "not_methods", "paths", "not_paths")


def allowed(
    policies: Sequence[AttachedPolicy], r: CheckInput, trust_domains: Sequence[str] = ("cluster.local",)
) -> bool:
    """CUSTOM, then DENY; without an ALLOW policy allow; else some ALLOW policy must match. AUDIT never decides."""
    enforced = [p for p in policies if not p.dry_run]

    def matches(action: Action) -> bool:
        return any(
            rule_matches(rule, action, r, p.origin.namespace, trust_domains)
            for p in enforced
            if p.spec.action == action
            for rule in p.spec.rules
        )

    if matches(Action.CUSTOM) or matches(Action.DENY):
        return False
    if not any(p.spec.action == Action.ALLOW for p in enforced):
        return True
    return matches(Action.ALLOW)


def rule_matches(rule: Rule, action: Action, r: CheckInput, namespace: str, trust_domains: Sequence[str]) -> bool:
    """From, to and when are ANDed, each of the first two is an OR-list; HTTP-only fields on TCP as the table says."""
    if not r.http and action != Action.DENY and _needs_http(rule):
        return False
    context = (r, namespace, trust_domains)
    if rule.from_ and not any(_source(f.source, *context) for f in rule.from_ if f.source is not None):
        return False
    if rule.to and not any(_operation(t.operation, r) for t in rule.to if t.operation is not None):
        return False
    for when in rule.when:
        if not r.http and _http_key(when.key):
            continue
        if when.values and not _key(when.key, when.values, *context):
            return False
        if when.not_values and _key(when.key, when.not_values, *context):
            return False
    return True


def _http_key(key: str) -> bool:
    return key.startswith("request.")


def _needs_http(rule: Rule) -> bool:
    return (
        any(getattr(f.source, name) for f in rule.from_ for name in HTTP_SOURCE_FIELDS)
        or any(getattr(t.operation, name) for t in rule.to for name in HTTP_OPERATION_FIELDS)
        or any(_http_key(when.key) for when in rule.when)
    )


def _field(values: Sequence[str], excluded: Sequence[str], one: Callable[[str], bool]) -> bool:
    """Values of a field are ORed, and notX is ANDed with X."""
    return (not values or any(map(one, values))) and not any(map(one, excluded))


def _source(s: Source, r: CheckInput, namespace: str, trust_domains: Sequence[str]) -> bool:
    return (
        _field(s.principals, s.not_principals, lambda v: _principal(v, r, trust_domains))
        and _field(s.namespaces, s.not_namespaces, lambda v: _namespace(v, r))
        and _field(s.service_accounts, s.not_service_accounts, lambda v: _service_account(v, r, namespace))
        and _field(s.trust_domains, s.not_trust_domains, lambda v: _trust_domain(v, r, trust_domains))
        and _field(s.ip_blocks, s.not_ip_blocks, lambda v: _address(v, r.source_ip))
        and _field(s.remote_ip_blocks, s.not_remote_ip_blocks, lambda v: _address(v, r.remote_ip))
        and (not r.http or _field(s.request_principals, s.not_request_principals, lambda v: _request_principal(v, r)))
    )


def _operation(o: Operation, r: CheckInput) -> bool:
    if not _field(o.ports, o.not_ports, lambda v: r.destination_port == int(v)):
        return False
    if not r.http:
        return True
    return (
        _field(o.methods, o.not_methods, lambda v: string(v, r.method))
        and _field(o.hosts, o.not_hosts, lambda v: string(v.lower(), r.host))
        and _field(o.paths, o.not_paths, lambda v: _path(v, r.path))
    )


def _key(key: str, values: Sequence[str], r: CheckInput, namespace: str, trust_domains: Sequence[str]) -> bool:
    return any(_key_value(key, v, r, namespace, trust_domains) for v in values)


def _key_value(key: str, v: str, r: CheckInput, namespace: str, trust_domains: Sequence[str]) -> bool:
    if key == "source.ip":
        return _address(v, r.source_ip)
    if key == "remote.ip":
        return _address(v, r.remote_ip)
    if key == "source.namespace":
        return _namespace(v, r)
    if key == "source.principal":
        return _principal(v, r, trust_domains)
    if key == "source.serviceAccount":
        return _service_account(v, r, namespace)
    if key == "source.trustDomain":
        return _trust_domain(v, r, trust_domains)
    if key == "request.auth.principal":
        return _request_principal(v, r)
    if key == "request.auth.audiences":
        return _claim(["aud"], v, r)
    if key == "request.auth.presenter":
        return _claim(["azp"], v, r)
    if key == "destination.ip":
        return _address(v, r.destination_ip)
    if key == "destination.port":
        return r.destination_port == int(v)
    if key == "connection.sni":
        return string(v, r.sni)
    names = re.findall(r"\[([^\]]*)\]", key)
    if key.startswith("request.auth.claims"):
        return _claim(names, v, r)
    if key.startswith("request.headers"):
        value = r.headers.get(names[0].lower())
        return value is not None and (v == "*" or string(v, value))
    namespace_of_filter = key.removeprefix("experimental.").split("[")[0]
    found = r.metadata.get(namespace_of_filter, {}).get(names[0])
    if v.startswith("[") and v.endswith("]"):
        return isinstance(found, list) and any(string(v[1:-1], m) for m in found if isinstance(m, str))
    return isinstance(found, str) and string(v, found)


def string(pattern: str, value: str) -> bool:
    """Exact, `abc*`, `*abc`, `*` for anything that is not empty."""
    if pattern == "*":
        return value != ""
    if pattern.startswith("*"):
        return value.endswith(pattern[1:])
    if pattern.endswith("*"):
        return value.startswith(pattern[:-1])
    return value == pattern


def _principal(pattern: str, r: CheckInput, trust_domains: Sequence[str]) -> bool:
    if not r.principal:
        return False
    if pattern == "*":
        return True
    patterns = [pattern]
    parts = pattern.split("/")
    if len(parts) == 5 and not parts[0].startswith("*") and (parts[0] in trust_domains or parts[0] == "cluster.local"):
        patterns = ["/".join([td, *parts[1:]]) for td in trust_domains]
    scheme, _, rest = r.principal.partition("://")
    return scheme == "spiffe" and any(string(p, rest) for p in patterns)


def _namespace(pattern: str, r: CheckInput) -> bool:
    escaped = ".*".join(re.escape(p) for p in pattern.split("*"))
    return re.fullmatch(f"[a-zA-Z][a-zA-Z0-9+.-]*://.*/ns/{escaped}/.*", r.principal) is not None


def _service_account(value: str, r: CheckInput, namespace: str) -> bool:
    ns, account = value.split("/") if "/" in value else (namespace, value)
    regex = f"spiffe://.+/ns/{re.escape(ns)}/(.+/|)sa/{re.escape(account)}(/.+)?"
    return re.fullmatch(regex, r.principal) is not None


def _trust_domain(pattern: str, r: CheckInput, trust_domains: Sequence[str]) -> bool:
    found = re.match(r"spiffe://([^/]+)", r.principal)
    if found is None:
        return False
    patterns = trust_domains if pattern in trust_domains else [pattern]
    return any(string(p, found.group(1)) for p in patterns)


def _address(block: str, address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    network = ipaddress.ip_network(block, strict=False)
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped and network.prefixlen >= 96:
        network = ipaddress.ip_network(f"{network.network_address.ipv4_mapped}/{network.prefixlen - 96}")
    return parsed in network


def _claim(path: Sequence[str], pattern: str, r: CheckInput) -> bool:
    found: object = r.claims.payload if r.claims is not None else None
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    members = found if isinstance(found, list) else [found]
    return any(string(pattern, m) for m in members if isinstance(m, str))


def _request_principal(pattern: str, r: CheckInput) -> bool:
    if r.claims is None:
        return False
    iss, sub = r.claims.payload.get("iss"), r.claims.payload.get("sub")
    if not isinstance(iss, str) or not isinstance(sub, str):
        return False
    if pattern == "*":
        return iss != "" and sub != ""
    if "/" not in pattern:
        if pattern.startswith("*"):
            return iss != "" and sub.endswith(pattern[1:])
        return iss.startswith(pattern[:-1]) and sub != "" if pattern.endswith("*") else iss == pattern and sub == ""
    want_iss, want_sub = pattern[: pattern.rindex("/")], pattern[pattern.rindex("/") + 1 :]
    if pattern.startswith("*"):
        return string(want_iss, iss) and sub == want_sub
    return iss == want_iss and string(want_sub, sub) if pattern.endswith("*") else (iss, sub) == (want_iss, want_sub)


def _path(pattern: str, path: str) -> bool:
    if "{*}" not in pattern and "{**}" not in pattern:
        return string(pattern, path)
    return _segments(pattern.split("/"), path.split("/"))


def _segments(wanted: Sequence[str], actual: Sequence[str]) -> bool:
    """`{*}` takes one segment that is not empty, `{**}` any number of them; only characters that belong into a path."""
    if not wanted:
        return not actual
    head, rest = wanted[0], wanted[1:]
    if head == "{**}":
        return any(all(map(_plain, actual[:n])) and _segments(rest, actual[n:]) for n in range(1, len(actual) + 1))
    if not actual:
        return False
    if head == "{*}":
        return actual[0] != "" and _plain(actual[0]) and _segments(rest, actual[1:])
    return head == actual[0] and _segments(rest, actual[1:])


def _plain(segment: str) -> bool:
    return all(c.isascii() and (c.isalnum() or c in "-._~%!$&'()*+,;:@=") for c in segment)
