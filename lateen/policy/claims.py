"""Verified claims in the one shape that every reader sees: the authorization rules, Envoy's dynamic metadata, the rate limits.

It is the shape Envoy's own jwt_authn filter writes: the token's payload, with space-delimited claims turned into lists.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

ALWAYS_SPACE_DELIMITED: Final = frozenset({"scope", "permission"})
"""Split without being asked, as Istio does."""


class Claims(NamedTuple):
    """The payload of a token whose signature, issuer, audience and times were verified."""

    payload: Mapping[str, object]

    @property
    def issuer(self) -> str:
        """`iss`, or nothing."""
        value = self.payload.get("iss")
        return value if isinstance(value, str) else ""

    @property
    def subject(self) -> str:
        """`sub`, or nothing."""
        value = self.payload.get("sub")
        return value if isinstance(value, str) else ""

    def value(self, path: Sequence[str]) -> object:
        """The claim at `path`, following objects only; None when there is none."""
        found: object = self.payload
        for name in path:
            if not isinstance(found, Mapping):
                return None
            found = found.get(name)
        return found

    def strings(self, path: Sequence[str]) -> Sequence[str]:
        """The strings a rule may match at `path`: the claim itself, or the members of a list; other types match nothing."""
        found = self.value(path)
        if isinstance(found, str):
            return (found,)
        if isinstance(found, Sequence):
            return [member for member in found if isinstance(member, str)]
        return ()


def verified_claims(payload: Mapping[str, object], space_delimited: Collection[str] = ()) -> Claims:
    """The claims of a verified payload: top-level claims named in `space_delimited` become lists when they are strings."""
    shaped = dict(payload)
    for name in ALWAYS_SPACE_DELIMITED.union(space_delimited):
        value = shaped.get(name)
        if isinstance(value, str):
            shaped[name] = [word for word in value.split(" ") if word]
    return Claims(shaped)


def claim_text(claims: Claims, path: Sequence[str]) -> str | None:
    """A claim as the text of a header: strings, integers and booleans; None for anything else or for unprintable text."""
    value = claims.value(path)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value) if isinstance(value, int | str) else None
    return text if text is not None and text.isprintable() and text.isascii() else None
