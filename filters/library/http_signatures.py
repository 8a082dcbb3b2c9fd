"""HTTP Message Signatures with hmac-sha256 (RFC 9421) and Content-Digest (RFC 9530): parsing, the signature base, signing.

Strict where the RFC leaves a choice: components have no parameters, and what cannot be read is an error.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

LONGEST_FIELD = 4096
MOST_COMPONENTS = 50
ALGORITHM = "hmac-sha256"
STRING = r'"(?:[ !#-\[\]-~]|\\["\\])*"'
KEY = r"[a-z*][a-z0-9_.*-]*"
INNER_LIST = re.compile(rf"({KEY})=\(([^()]*)\)((?:; *{KEY}(?:=(?:{STRING}|-?[0-9]{{1,15}}))?)*)[ \t]*(?:,[ \t]*|$)")
COMPONENT = re.compile(rf" *({STRING})(;[^ ]*)?(?= |$)")
PARAMETER = re.compile(rf"; *({KEY})(?:=({STRING}|-?[0-9]{{1,15}}))?")
BYTES = re.compile(rf"({KEY})=:([A-Za-z0-9+/=]*):[ \t]*(?:,[ \t]*|$)")
DERIVED = frozenset({"@method", "@authority", "@scheme", "@target-uri", "@request-target", "@path", "@query"})
IMPLIED: Mapping[str, tuple[str, ...]] = {
    "@path": ("@request-target", "@target-uri"),
    "@query": ("@request-target", "@target-uri"),
    "@authority": ("@target-uri",),
    "@scheme": ("@target-uri",),
}
"""Components that hold others."""
DEFAULT_PORTS = {"http": ":80", "https": ":443"}
DIGESTS: Mapping[str, Callable[[bytes], bytes]] = {
    "sha-256": lambda body: hashlib.sha256(body).digest(),
    "sha-512": lambda body: hashlib.sha512(body).digest(),
}
Value: TypeAlias = str | int | bool
Field: TypeAlias = Callable[[str], Sequence[str]]
"""Values of a header by its name in lower case."""


class SignatureError(Exception):
    """A signature is missing, malformed or wrong; the message may be shown to the client."""


class Target(NamedTuple):
    """What a request is sent to."""

    method: str
    scheme: str
    authority: str
    path_and_query: str


class SignatureInput(NamedTuple):
    """What a signature covers."""

    components: tuple[str, ...]
    parameters: Mapping[str, Value]

    def render(self) -> str:
        """As `@signature-params` has it."""
        listed = " ".join(f'"{name}"' for name in self.components)
        return f"({listed})" + "".join(_parameter(name, value) for name, value in self.parameters.items())

    def text(self, name: str) -> str | None:
        """A parameter that is a string."""
        value = self.parameters.get(name)
        return value if isinstance(value, str) else None

    def number(self, name: str) -> int | None:
        """A parameter that is an integer."""
        value = self.parameters.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def covers(self, component: str) -> bool:
        """Whether a component is signed, by itself or within another."""
        return component in self.components or any(name in self.components for name in IMPLIED.get(component, ()))


def _parameter(name: str, value: Value) -> str:
    if value is True:
        return f";{name}"
    if isinstance(value, int):
        return f";{name}={value}"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f';{name}="{escaped}"'


def parse_inputs(text: str) -> dict[str, SignatureInput]:
    """The Signature-Input field: what each signature covers, by label."""
    found: dict[str, SignatureInput] = {}
    for label, listed, parameters in _members(INNER_LIST, text, "Signature-Input"):
        found[label] = SignatureInput(_components(listed), _parameters(parameters))
    return found


def parse_bytes(text: str, field: str) -> dict[str, bytes]:
    """A field whose members are bytes: Signature, Content-Digest."""
    found: dict[str, bytes] = {}
    for label, encoded in _members(BYTES, text, field):
        try:
            found[label] = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raise SignatureError(f"{field}: {label} is not base64") from None
    return found


def _members(pattern: "re.Pattern[str]", text: str, field: str) -> list[tuple[str, ...]]:
    if len(text) > LONGEST_FIELD:
        raise SignatureError(f"{field} is longer than {LONGEST_FIELD} characters")
    text = text.strip(" \t")
    members: list[tuple[str, ...]] = []
    at = 0
    while at < len(text):
        match = pattern.match(text, at)
        if match is None or (match.end() == len(text) and text.endswith(",")):
            raise SignatureError(f"{field} cannot be read from {text[at : at + 30]!r} on")
        if any(member[0] == match.group(1) for member in members):
            raise SignatureError(f"{field} has {match.group(1)} twice")
        members.append(match.groups())
        at = match.end()
    return members


def _components(listed: str) -> tuple[str, ...]:
    names: list[str] = []
    at = 0
    listed = listed.strip(" ")
    while at < len(listed):
        match = COMPONENT.match(listed, at)
        if match is None or match.group(2):
            raise SignatureError(f"Signature-Input: component {listed[at : at + 30]!r} is not supported")
        name = match.group(1)[1:-1]
        if name in names or name != name.lower() or (name.startswith("@") and name not in DERIVED):
            raise SignatureError(f"Signature-Input: component {name!r} is not supported, or there twice")
        names.append(name)
        at = match.end()
    if len(names) > MOST_COMPONENTS:
        raise SignatureError(f"Signature-Input: more than {MOST_COMPONENTS} components")
    return tuple(names)


def _parameters(text: str) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for name, raw in PARAMETER.findall(text):
        if name in found:
            raise SignatureError(f"Signature-Input: parameter {name} is there twice")
        if not raw:
            found[name] = True
        elif raw.startswith('"'):
            found[name] = re.sub(r"\\(.)", r"\1", raw[1:-1])
        else:
            found[name] = int(raw)
    return found


def signature_base(target: Target, field: Field, signed: SignatureInput) -> bytes:
    """The text that is signed (RFC 9421, 2.5); SignatureError if a covered header is not there."""
    lines = [f'"{name}": {_component(target, field, name)}' for name in signed.components]
    lines.append(f'"@signature-params": {signed.render()}')
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def _component(target: Target, field: Field, name: str) -> str:
    path, _, query = target.path_and_query.partition("?")
    authority = target.authority.lower().removesuffix(DEFAULT_PORTS.get(target.scheme, ""))
    match name:
        case "@method":
            return target.method
        case "@scheme":
            return target.scheme.lower()
        case "@authority":
            return authority
        case "@request-target":
            return target.path_and_query
        case "@target-uri":
            return f"{target.scheme}://{authority}{target.path_and_query}"
        case "@path":
            return path or "/"
        case "@query":
            return f"?{query}"
    values = field(name)
    if not values:
        raise SignatureError(f"header {name} is signed and is not there")
    return ", ".join(value.strip(" \t") for value in values)


def sign(secret: bytes, base: bytes) -> bytes:
    """The signature of a signature base."""
    return hmac.new(secret, base, "sha256").digest()


def check_digest(text: str, body: bytes) -> None:
    """SignatureError unless a Content-Digest fits the body; one algorithm that is known is enough, and all known ones must fit."""
    digests = {name: value for name, value in parse_bytes(text, "Content-Digest").items() if name in DIGESTS}
    if not digests:
        raise SignatureError(f"Content-Digest: use {' or '.join(DIGESTS)}")
    for name, value in digests.items():
        if not hmac.compare_digest(DIGESTS[name](body), value):
            raise SignatureError("the body does not fit Content-Digest")


def content_digest(body: bytes) -> str:
    """Content-Digest of a body."""
    return f"sha-256=:{base64.b64encode(DIGESTS['sha-256'](body)).decode()}:"


def signed_headers(
    secret: bytes, target: Target, headers: Mapping[str, str], signed: SignatureInput, label: str = "sig"
) -> dict[str, str]:
    """The headers Signature-Input and Signature of a request, as a client sends them. Names of `headers` are in lower case."""
    base = signature_base(target, lambda name: [headers[name]] if name in headers else [], signed)
    encoded = base64.b64encode(sign(secret, base)).decode()
    return {"signature-input": f"{label}={signed.render()}", "signature": f"{label}=:{encoded}:"}
