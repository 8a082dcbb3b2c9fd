"""Every attribute a rule can look at, in one table: how its values are compiled and how its value is shown.

The fields of `source` and `operation` and the keys of `when` meet here: `source.principals` and `source.principal` are one attribute.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from lateen.policy.claims import Claims
from lateen.policy.errors import PolicyError
from lateen.policy.matching import AddressSet, Constants, StringTest, any_of, path_code, string_code
from lateen.policy.request import SPIFFE, CheckInput, trust_domain_of

_MAX_PORT: Final = 65535
_IDENTITY_PARTS: Final = 5
_LOCAL_TRUST_DOMAIN: Final = "cluster.local"
_URI: Final = "[a-zA-Z][-+.a-zA-Z0-9]*://"


@dataclass(frozen=True, slots=True)
class Context:
    """What the meaning of a value depends on besides itself."""

    constants: Constants
    namespace: str
    """Of the policy."""
    trust_domains: tuple[str, ...]
    """The mesh's own first, then its aliases."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """One thing to look at: `code` compiles "matches any of these values", `actual` shows what a request has (None: absent)."""

    name: str
    code: Callable[[Sequence[str], Context], str]
    actual: Callable[[CheckInput], str | None]
    anchors: Callable[[Sequence[str], Context], frozenset[str] | None] | None = None
    """For attributes of the peer: the keys (`lateen.policy.table.peer_keys`) one of which a matching peer has; None: cannot be told."""
    http_only: bool = False
    header: str = ""
    claim: str = ""


def attribute_for(key: str) -> Attribute:
    """The attribute of a key of `when`; PolicyError for a key that does not exist."""
    if key in _ATTRIBUTES:
        return _ATTRIBUTES[key]
    if key.startswith("request.headers["):
        return _header(_bracketed(key, "request.headers")[0].lower())
    if key.startswith("request.auth.claims["):
        return _claim(key, _bracketed(key, "request.auth.claims"))
    if key.startswith("experimental.envoy.filters."):
        namespace, bracket, rest = key.removeprefix("experimental.").partition("[")
        if not bracket or not rest.endswith("]") or len(rest) == 1:
            raise PolicyError(f'"{key}" must end with a name in brackets')
        return _metadata(key, namespace, rest[:-1])
    raise PolicyError(f'unknown attribute "{key}"')


def _bracketed(key: str, start: str) -> tuple[str, ...]:
    rest = key.removeprefix(start)
    names = tuple(rest[1:-1].split("]["))
    if (
        not rest.startswith("[")
        or not rest.endswith("]")
        or not all(names)
        or (start == "request.headers" and len(names) > 1)
    ):
        raise PolicyError(f'"{key}" must be {start}[NAME]')
    return names


# Identity of the peer


def _identity(r: CheckInput) -> str | None:
    return r.principal.removeprefix(SPIFFE) or None


def _principal_code(values: Sequence[str], context: Context) -> str:
    expanded = [e for value in values for e in expand_principal(value, context.trust_domains)]
    return string_code("r.principal", expanded, context.constants, prefix=SPIFFE)


def _principal_anchors(values: Sequence[str], context: Context) -> frozenset[str] | None:
    expanded = [e for value in values for e in expand_principal(value, context.trust_domains)]
    exact = all(e and "*" not in (e[0], e[-1]) for e in expanded)
    return frozenset(SPIFFE + e for e in expanded) if exact else None


def _namespace_anchors(values: Sequence[str], _: Context) -> frozenset[str] | None:
    exact = all(v and "*" not in v and "/" not in v for v in values)
    return frozenset(f"/ns/{v}" for v in values) if exact else None


def expand_principal(principal: str, trust_domains: Sequence[str]) -> tuple[str, ...]:
    """The identities that mean the same in this mesh: a principal of one of its trust domains is one of each of them.

    `cluster.local` always points at the mesh's own trust domains; what is not TD/ns/NAMESPACE/sa/ACCOUNT stays as it is.
    """
    parts = principal.split("/")
    domain = parts[0]
    if len(parts) != _IDENTITY_PARTS or domain == "*":
        return (principal,)
    suffix = domain[1:] if domain.startswith("*") else None
    known = domain in trust_domains or (suffix is not None and any(t.endswith(suffix) for t in trust_domains))
    if not known and domain != _LOCAL_TRUST_DOMAIN:
        return (principal,)
    rest = principal[len(domain) :]
    same = (principal if suffix is not None and t.endswith(suffix) else t + rest for t in trust_domains)
    return tuple(dict.fromkeys(same))


def _namespace_code(values: Sequence[str], context: Context) -> str:
    # Proxies fall back to a certificate's other names, which anybody may have been given: only a URI is an identity.
    is_uri = context.constants.add(re.compile(_URI).match)
    if any("*" in v for v in values):
        alternatives = "|".join(".*".join(re.escape(part) for part in v.split("*")) for v in values)
        search = context.constants.add(re.compile(f"/ns/(?:{alternatives})/", re.DOTALL).search)
        found = f"{search}(r.principal) is not None"
    else:
        found = any_of([f"{context.constants.add(f'/ns/{v}/')} in r.principal" for v in values])
    return f"({found} and {is_uri}(r.principal) is not None)"


def _service_account_code(values: Sequence[str], context: Context) -> str:
    for value in values:
        if "*" in value or value.count("/") > 1 or not all(value.split("/")):
            raise PolicyError(f'"{value}" is not NAMESPACE/ACCOUNT or ACCOUNT')
    # Further pairs may stand before, between and behind the namespace and the account: trust domains are free to add them.
    pairs = [v.split("/", 1) if "/" in v else [context.namespace, v] for v in values]
    alternatives = "|".join(f"{re.escape(ns)}/(?:.+/|)sa/{re.escape(account)}" for ns, account in pairs)
    match = context.constants.add(re.compile(f"{SPIFFE}.+/ns/(?:{alternatives})(?:/.+)?", re.DOTALL).fullmatch)
    return f"{match}(r.principal) is not None"


def _trust_domain_code(values: Sequence[str], context: Context) -> str:
    domains = context.trust_domains
    expanded = [e for v in values for e in (domains if v in domains else (v,))]
    variable = context.constants.local()
    found = f"({variable} := {context.constants.add(trust_domain_of)}(r.principal))"
    return f"({found} != '' and {string_code(variable, expanded, context.constants)})"


# Addresses and ports


def _address_code(field: str) -> Callable[[Sequence[str], Context], str]:
    return lambda values, context: f"{context.constants.add(AddressSet(values))}(r.{field})"


def _port_code(values: Sequence[str], context: Context) -> str:
    for value in values:
        if not (value.isascii() and value.isdigit()) or int(value) > _MAX_PORT:
            raise PolicyError(f'"{value}" is not a port')
    return f"r.destination_port in {context.constants.add(frozenset(int(v) for v in values))}"


def _sni_code(values: Sequence[str], context: Context) -> str:
    return string_code("r.sni", values, context.constants)


# HTTP


def _host_code(values: Sequence[str], context: Context) -> str:
    return string_code("r.host", [v.lower() for v in values], context.constants)


def _method_code(values: Sequence[str], context: Context) -> str:
    return string_code("r.method", values, context.constants)


def _path_code(values: Sequence[str], context: Context) -> str:
    return path_code(values, context.constants)


def _header(written: str) -> Attribute:
    name = ":authority" if written == "host" else written  # as Envoy has it: proxies have no other Host

    def code(values: Sequence[str], context: Context) -> str:
        variable = context.constants.local()
        # "*" means present, even when empty: Envoy's header matcher asks no more.
        test = string_code(variable, values, context.constants, present="True")
        return f"(({variable} := r.headers.get({context.constants.add(name)})) is not None and {test})"

    return Attribute(f"request.headers[{written}]", code, lambda r: r.headers.get(name), http_only=True, header=name)


# Verified tokens


class _RequestPrincipals:
    """`iss/sub` patterns: split at the last slash, prefix and suffix patterns act on the part they touch."""

    __slots__ = ("_pairs",)

    def __init__(self, values: Sequence[str]) -> None:
        self._pairs = tuple(map(request_principal_tests, values))

    def __call__(self, claims: Claims | None) -> bool:
        if claims is None:
            return False
        iss, sub = claims.payload.get("iss"), claims.payload.get("sub")
        if not isinstance(iss, str) or not isinstance(sub, str):
            return False
        return any(test_iss(iss) and test_sub(sub) for test_iss, test_sub in self._pairs)


StringPredicate = Callable[[str], bool]


def request_principal_tests(value: str) -> tuple[StringPredicate, StringPredicate]:
    """The tests of `iss` and of `sub` that one value of `requestPrincipals` stands for."""
    anything: StringPredicate = bool
    iss, slash, sub = value.rpartition("/")
    if value == "*":
        return anything, anything
    if value.startswith("*"):
        if not slash:
            return anything, _ends_with(value[1:])
        return (anything if iss == "*" else _ends_with(iss[1:])), sub.__eq__
    if value.endswith("*"):
        if not slash:
            return _starts_with(value[:-1]), anything
        return iss.__eq__, anything if sub == "*" else _starts_with(sub[:-1])
    return (iss.__eq__, sub.__eq__) if slash else (value.__eq__, "".__eq__)


def _starts_with(prefix: str) -> StringPredicate:
    return lambda text: text.startswith(prefix)


def _ends_with(suffix: str) -> StringPredicate:
    return lambda text: text.endswith(suffix)


class _ClaimTest:
    """Whether a claim, or a member of it, matches."""

    __slots__ = ("_path", "_test")

    def __init__(self, path: tuple[str, ...], values: Sequence[str]) -> None:
        self._path = path
        self._test = StringTest(values)

    def __call__(self, claims: Claims | None) -> bool:
        return claims is not None and any(map(self._test, claims.strings(self._path)))


def _claim(name: str, path: tuple[str, ...]) -> Attribute:
    def code(values: Sequence[str], context: Context) -> str:
        return f"{context.constants.add(_ClaimTest(path, values))}(r.claims)"

    def actual(r: CheckInput) -> str | None:
        return ", ".join(r.claims.strings(path)) or None if r.claims is not None else None

    return Attribute(name, code, actual, http_only=True, claim=path[0])


def _request_principal_code(values: Sequence[str], context: Context) -> str:
    return f"{context.constants.add(_RequestPrincipals(values))}(r.claims)"


# Dynamic metadata of the proxy's filters


class _MetadataTest:
    """Whether a string of dynamic metadata matches, or for values written `[v]` a member of a list."""

    __slots__ = ("_key", "_members", "_namespace", "_whole")

    def __init__(self, namespace: str, key: str, values: Sequence[str]) -> None:
        lists = [v for v in values if v.startswith("[") and v.endswith("]")]
        self._namespace = namespace
        self._key = key
        self._members = StringTest([v.strip("[]") for v in lists])
        self._whole = StringTest([v for v in values if v not in lists])

    def __call__(self, r: CheckInput) -> bool:
        found = r.metadata.get(self._namespace, {}).get(self._key)
        if isinstance(found, str):
            return self._whole(found)
        return isinstance(found, Sequence) and any(self._members(m) for m in found if isinstance(m, str))


def _metadata(name: str, namespace: str, key: str) -> Attribute:
    def code(values: Sequence[str], context: Context) -> str:
        return f"{context.constants.add(_MetadataTest(namespace, key, values))}(r)"

    def actual(r: CheckInput) -> str | None:
        found = r.metadata.get(namespace, {}).get(key)
        return None if found is None else str(found)

    return Attribute(name, code, actual)


_ATTRIBUTES: Final = {
    a.name: a
    for a in (
        Attribute("source.principal", _principal_code, _identity, _principal_anchors),
        Attribute("source.namespace", _namespace_code, _identity, _namespace_anchors),
        Attribute("source.serviceAccount", _service_account_code, _identity),
        Attribute("source.trustDomain", _trust_domain_code, lambda r: trust_domain_of(r.principal) or None),
        Attribute("source.ip", _address_code("source_ip"), lambda r: r.source_ip or None),
        Attribute("remote.ip", _address_code("remote_ip"), lambda r: r.remote_ip or None),
        Attribute("destination.ip", _address_code("destination_ip"), lambda r: r.destination_ip or None),
        Attribute("destination.port", _port_code, lambda r: str(r.destination_port) if r.destination_port else None),
        Attribute("connection.sni", _sni_code, lambda r: r.sni or None),
        Attribute("request.host", _host_code, lambda r: r.host or None, http_only=True),
        Attribute("request.method", _method_code, lambda r: r.method or None, http_only=True),
        Attribute("request.path", _path_code, lambda r: r.path or None, http_only=True),
        Attribute(
            "request.auth.principal",
            _request_principal_code,
            lambda r: f"{r.claims.issuer}/{r.claims.subject}" if r.claims is not None else None,
            http_only=True,
        ),
    )
}
_ATTRIBUTES["request.auth.audiences"] = _claim("request.auth.audiences", ("aud",))
_ATTRIBUTES["request.auth.presenter"] = _claim("request.auth.presenter", ("azp",))

SOURCE_FIELDS: Final = (
    ("principals", "source.principal"),
    ("request_principals", "request.auth.principal"),
    ("namespaces", "source.namespace"),
    ("service_accounts", "source.serviceAccount"),
    ("trust_domains", "source.trustDomain"),
    ("ip_blocks", "source.ip"),
    ("remote_ip_blocks", "remote.ip"),
)
"""The fields of `source`, each with the attribute it looks at; `not_NAME` is its negation."""

OPERATION_FIELDS: Final = (
    ("methods", "request.method"),
    ("paths", "request.path"),
    ("hosts", "request.host"),
    ("ports", "destination.port"),
)
"""The fields of `operation`, as above."""

FIELDS_ONLY: Final = frozenset({"request.method", "request.path", "request.host"})
"""Attributes that are no key of `when`."""
