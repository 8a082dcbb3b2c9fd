"""One condition of a policy as Envoy's rbac filters ask it: a Principal (about the peer) or a Permission (about the request).

Each attribute of `lateen.policy.attributes` has its counterpart here, with the same meaning: tests/policy holds the two against each other
and against a real Envoy.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from lateen.controlplane.findings import TranslationError
from lateen.controlplane.matchers import regex
from lateen.envoyapi.envoy.config.core.v3 import address_pb2
from lateen.envoyapi.envoy.config.rbac.v3 import rbac_pb2
from lateen.envoyapi.envoy.config.route.v3 import route_components_pb2 as rc
from lateen.envoyapi.envoy.type.matcher.v3 import metadata_pb2, path_pb2, string_pb2, value_pb2
from lateen.policy.attributes import expand_principal
from lateen.policy.matching import is_template, template_regex
from lateen.policy.request import SPIFFE
from lateen.policy.rules import Condition

CLAIMS_NAMESPACE: Final = "envoy.filters.http.jwt_authn"
CLAIMS_KEY: Final = "payload"
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")
_URI: Final = "[a-zA-Z][-+.a-zA-Z0-9]*://"
Permission = rbac_pb2.Permission
Principal = rbac_pb2.Principal
_Values = Sequence[str]


@dataclass(frozen=True, slots=True)
class Meaning:
    """What the meaning of a value depends on besides itself."""

    namespace: str
    """Of the policy."""
    trust_domains: tuple[str, ...]
    """The mesh's own first, then its aliases."""


def any_principal(items: Sequence[Principal]) -> Principal:
    """One of them."""
    return items[0] if len(items) == 1 else Principal(or_ids=Principal.Set(ids=items))


def all_principals(items: Sequence[Principal]) -> Principal:
    """Each of them; anyone, when there is none."""
    if not items:
        return Principal(any=True)
    return items[0] if len(items) == 1 else Principal(and_ids=Principal.Set(ids=items))


def any_permission(items: Sequence[Permission]) -> Permission:
    """One of them."""
    return items[0] if len(items) == 1 else Permission(or_rules=Permission.Set(rules=items))


def all_permissions(items: Sequence[Permission]) -> Permission:
    """Each of them; anything, when there is none."""
    if not items:
        return Permission(any=True)
    return items[0] if len(items) == 1 else Permission(and_rules=Permission.Set(rules=items))


def matcher(condition: Condition, meaning: Meaning) -> Principal | Permission:
    """The condition; TranslationError when rbac cannot ask exactly this."""
    name, values = condition.attribute.name, condition.values
    if name in _PRINCIPALS or name.startswith("request.auth.claims["):
        principal = (
            any_principal(list(_PRINCIPALS[name](values, meaning)))
            if name in _PRINCIPALS
            else _claim(tuple(name[len("request.auth.claims[") : -1].split("][")), values)
        )
        return Principal(not_id=principal) if condition.negated else principal
    permission = _permission(name, values)
    return Permission(not_rule=permission) if condition.negated else permission


def _permission(name: str, values: _Values) -> Permission:
    if name in _PERMISSIONS:
        return any_permission(list(_PERMISSIONS[name](values)))
    if name.startswith("request.headers["):
        return any_permission([_header(name[len("request.headers[") : -1], v) for v in values])
    if name.startswith("experimental.envoy.filters."):
        namespace, _, key = name.removeprefix("experimental.").partition("[")
        return _filter_state(namespace, key[:-1], values)
    raise TranslationError(f"{name} cannot be asked by Envoy's rbac")


# Text


def text(pattern: str, *, ignore_case: bool = False) -> string_pb2.StringMatcher:
    """Istio's patterns: exact, `abc*`, `*abc`, `*` (not empty)."""
    if pattern == "*":
        return string_pb2.StringMatcher(safe_regex=regex("(?s).+"))
    if pattern.startswith("*"):
        return string_pb2.StringMatcher(suffix=pattern[1:], ignore_case=ignore_case)
    if pattern.endswith("*"):
        return string_pb2.StringMatcher(prefix=pattern[:-1], ignore_case=ignore_case)
    return string_pb2.StringMatcher(exact=pattern, ignore_case=ignore_case)


# The peer


def _authenticated(name: string_pb2.StringMatcher) -> Principal:
    return Principal(authenticated=Principal.Authenticated(principal_name=name))


def _identity(pattern: str) -> Principal:
    """Whoever presented a certificate with such a URI; without one nobody matches."""
    return _authenticated(string_pb2.StringMatcher(safe_regex=regex(f"(?s){pattern}")))


def _principals(values: _Values, meaning: Meaning) -> Iterator[Principal]:
    for value in dict.fromkeys(e for v in values for e in expand_principal(v, meaning.trust_domains)):
        if value != "*" and value.startswith("*"):
            yield _identity(f"{SPIFFE}.*{re.escape(value[1:])}")
        else:
            yield _authenticated(text(value if value == "*" else SPIFFE + value))


def _namespaces(values: _Values, _: Meaning) -> Iterator[Principal]:
    for value in values:
        yield _identity(f"{_URI}.*/ns/{'.*'.join(map(re.escape, value.split('*')))}/.*")


def _service_accounts(values: _Values, meaning: Meaning) -> Iterator[Principal]:
    for value in values:
        namespace, account = value.split("/", 1) if "/" in value else (meaning.namespace, value)
        yield _identity(f"{SPIFFE}.+/ns/{re.escape(namespace)}/(?:.+/|)sa/{re.escape(account)}(?:/.+)?")


def _trust_domains(values: _Values, meaning: Meaning) -> Iterator[Principal]:
    domains = meaning.trust_domains
    for value in dict.fromkeys(e for v in values for e in (domains if v in domains else (v,))):
        if "/" in value or not value:
            yield Principal(not_id=Principal(any=True))
        elif value == "*":
            yield _identity(f"{SPIFFE}[^/]+(?:/.*)?")
        elif value.startswith("*"):
            yield _identity(f"{SPIFFE}[^/]*{re.escape(value[1:])}(?:/.*)?")
        elif value.endswith("*"):
            yield _identity(f"{SPIFFE}{re.escape(value[:-1])}[^/]*(?:/.*)?")
        else:
            yield _identity(f"{SPIFFE}{re.escape(value)}(?:/.*)?")


# Addresses: an IPv4 address mapped into IPv6 is the IPv4 address it maps, which rbac does not know

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _cidr(network: _Network) -> address_pb2.CidrRange:
    result = address_pb2.CidrRange(address_prefix=str(network.network_address))
    result.prefix_len.value = network.prefixlen
    return result


def _network(block: str) -> _Network:
    network = ipaddress.ip_network(block, strict=False)
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        lowest = network.network_address.ipv4_mapped
        if lowest is not None:
            return ipaddress.IPv4Network((int(lowest), network.prefixlen - _MAPPED.prefixlen))
    return network


def _mapped(network: ipaddress.IPv4Network) -> ipaddress.IPv6Network:
    base = int(_MAPPED.network_address) + int(network.network_address)
    return ipaddress.IPv6Network((base, _MAPPED.prefixlen + network.prefixlen))


def _addresses(one: Callable[[address_pb2.CidrRange], Principal]) -> Callable[[_Values, Meaning], Iterator[Principal]]:
    def made(values: _Values, _: Meaning) -> Iterator[Principal]:
        for network in map(_network, values):
            if isinstance(network, ipaddress.IPv4Network):
                yield one(_cidr(network))
                yield one(_cidr(_mapped(network)))
            elif _MAPPED.subnet_of(network):
                yield all_principals([one(_cidr(network)), Principal(not_id=one(_cidr(_MAPPED)))])
            else:
                yield one(_cidr(network))

    return made


def _destination_ips(values: _Values) -> Iterator[Permission]:
    for network in map(_network, values):
        if isinstance(network, ipaddress.IPv4Network):
            yield Permission(destination_ip=_cidr(network))
            yield Permission(destination_ip=_cidr(_mapped(network)))
        elif _MAPPED.subnet_of(network):
            mapped = Permission(not_rule=Permission(destination_ip=_cidr(_MAPPED)))
            yield all_permissions([Permission(destination_ip=_cidr(network)), mapped])
        else:
            yield Permission(destination_ip=_cidr(network))


# The request


def _ports(values: _Values) -> Iterator[Permission]:
    for value in values:
        yield Permission(destination_port=int(value))


def _server_names(values: _Values) -> Iterator[Permission]:
    for value in values:
        yield Permission(requested_server_name=text(value))


def _pseudo(name: str, pattern: string_pb2.StringMatcher) -> Permission:
    return Permission(header=rc.HeaderMatcher(name=name, string_match=pattern))


def _methods(values: _Values) -> Iterator[Permission]:
    for value in values:
        yield _pseudo(":method", text(value))


def _hosts(values: _Values) -> Iterator[Permission]:
    for value in values:
        if not value.isascii():
            raise TranslationError(f'host "{value}": Envoy compares only ASCII without regard to case')
        yield _pseudo(":authority", text(value.lower(), ignore_case=value != "*"))


def _paths(values: _Values) -> Iterator[Permission]:
    for value in values:
        wanted = (
            string_pb2.StringMatcher(safe_regex=regex(template_regex(value))) if is_template(value) else text(value)
        )
        yield Permission(url_path=path_pb2.PathMatcher(path=wanted))


def _header(name: str, value: str) -> Permission:
    if value == "*":  # present, even when empty
        return Permission(header=rc.HeaderMatcher(name=name, present_match=True))
    return _pseudo(name, text(value))


# Verified tokens and the metadata of filters


def _metadata(
    namespace: str, path: Sequence[str], values: Sequence[value_pb2.ValueMatcher]
) -> rbac_pb2.SourcedMetadata:
    either = value_pb2.ValueMatcher(or_match=value_pb2.OrMatcher(value_matchers=values))
    found = metadata_pb2.MetadataMatcher(
        filter=namespace,
        path=[metadata_pb2.MetadataMatcher.PathSegment(key=key) for key in path],
        value=values[0] if len(values) == 1 else either,
    )
    return rbac_pb2.SourcedMetadata(metadata_matcher=found, metadata_source=rbac_pb2.DYNAMIC)


def _whole(pattern: string_pb2.StringMatcher) -> value_pb2.ValueMatcher:
    return value_pb2.ValueMatcher(string_match=pattern)


def _member(pattern: string_pb2.StringMatcher) -> value_pb2.ValueMatcher:
    return value_pb2.ValueMatcher(list_match=value_pb2.ListMatcher(one_of=_whole(pattern)))


def _claim(path: Sequence[str], values: _Values) -> Principal:
    """A string claim, or a member of a list."""
    patterns = [text(v) for v in values]
    tests = [*map(_whole, patterns), *map(_member, patterns)]
    return Principal(sourced_metadata=_metadata(CLAIMS_NAMESPACE, (CLAIMS_KEY, *path), tests))


def _filter_state(namespace: str, key: str, values: _Values) -> Permission:
    """What another filter left in dynamic metadata: text, or for `[v]` a member of a list."""
    tests = [_member(text(v.strip("[]"))) if v.startswith("[") and v.endswith("]") else _whole(text(v)) for v in values]
    return Permission(sourced_metadata=_metadata(namespace, (key,), tests))


def _request_principals(values: _Values, _: Meaning) -> Iterator[Principal]:
    for value in values:
        pair = zip(("iss", "sub"), _issuer_and_subject(value), strict=True)
        yield all_principals(
            [
                Principal(sourced_metadata=_metadata(CLAIMS_NAMESPACE, (CLAIMS_KEY, claim), [_whole(wanted)]))
                for claim, wanted in pair
            ]
        )


def _issuer_and_subject(value: str) -> tuple[string_pb2.StringMatcher, string_pb2.StringMatcher]:
    """`iss/sub`: split at the last slash; `*` at the front speaks of the issuer, at the end of the subject."""
    issuer, slash, subject = value.rpartition("/")
    if value == "*":
        return text("*"), text("*")
    if value.startswith("*"):
        return (text(issuer), _exactly(subject)) if slash else (text("*"), text(value))
    if value.endswith("*"):
        if not slash:
            return text(value), text("*")
        behind = text("*") if subject == "*" else string_pb2.StringMatcher(prefix=subject[:-1])
        return _exactly(issuer), behind
    return (_exactly(issuer), _exactly(subject)) if slash else (_exactly(value), _exactly(""))


def _exactly(value: str) -> string_pb2.StringMatcher:
    return string_pb2.StringMatcher(exact=value)


_PRINCIPALS: Final[dict[str, Callable[[_Values, Meaning], Iterator[Principal]]]] = {
    "source.principal": _principals,
    "source.namespace": _namespaces,
    "source.serviceAccount": _service_accounts,
    "source.trustDomain": _trust_domains,
    "source.ip": _addresses(lambda cidr: Principal(direct_remote_ip=cidr)),
    "remote.ip": _addresses(lambda cidr: Principal(remote_ip=cidr)),
    "request.auth.principal": _request_principals,
    "request.auth.audiences": lambda values, _: iter([_claim(("aud",), values)]),
    "request.auth.presenter": lambda values, _: iter([_claim(("azp",), values)]),
}
_PERMISSIONS: Final[dict[str, Callable[[_Values], Iterator[Permission]]]] = {
    "destination.ip": _destination_ips,
    "destination.port": _ports,
    "connection.sni": _server_names,
    "request.host": _hosts,
    "request.method": _methods,
    "request.path": _paths,
}
