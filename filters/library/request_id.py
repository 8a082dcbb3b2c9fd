"""request-id: an id for every request, kept from those who may set one."""

import re
import secrets
import time
import uuid
from typing import Literal

from filters.library.addresses import check_identities, matches_identity, parse_networks, parse_source, within
from filters.library.credentials import check_header
from lateen_filter import FilterConfig, HttpFilter, Request, Response

LONGEST = 256
WELL_FORMED = re.compile(r"[A-Za-z0-9._:/+=@~-]{1,256}")
UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
TRACE_REASON = 14
"""The character of an id in which Envoy packs why the request is traced (uuid_request_id_config)."""
TRACE_REASONS = "49ab"
INTERNAL = "x-envoy-internal"
"""Envoy sets it and takes it off what clients send."""


class RequestId(HttpFilter):
    """Gives every request an id, unless it comes with one from somebody who may choose it.

    The rules are those of Envoy's connection manager (x-request-id), for any header, for internal clients told by address and
    identity too, and for formats other than Envoy's.
    """

    class Config(FilterConfig):
        header: str = "x-request-id"
        """The header with the id."""
        keep: Literal["always", "internal", "never"] = "internal"
        """Whose ids stay: everybody's, those of internal requests (x-envoy-internal, or as below), or nobody's."""
        internal_addresses: tuple[str, ...] = ()
        """Networks and addresses of clients that are internal: "10.0.0.0/8"."""
        internal_identities: tuple[str, ...] = ()
        """SPIFFE identities of clients that are internal; a `*` at the end makes a prefix."""
        format: Literal["uuid4", "uuid7", "hex"] = "uuid4"
        """What new ids look like: random, ordered by time (RFC 9562), or 32 hexadecimal digits."""
        longest: int = 128
        """Characters; an id that is longer, or has others than letters, digits and ._:/+=@~-, is replaced."""
        copy_to: tuple[str, ...] = ()
        """Headers that get the same id: x-correlation-id."""
        respond: bool = True
        """Whether the response carries the id as well."""

        def validate(self) -> None:
            parse_networks(self.internal_addresses, "internalAddresses")
            check_identities("internalIdentities", self.internal_identities)
            if self.keep == "always" and (self.internal_addresses or self.internal_identities):
                raise ValueError("internalAddresses and internalIdentities restrict nothing with keep: always")
            if not 1 <= self.longest <= LONGEST:
                raise ValueError(f"longest is {self.longest}: between 1 and {LONGEST}")
            check_header("header", self.header, written=True)
            for name in self.copy_to:
                check_header("copyTo", name, written=True)

    config: Config

    def on_start(self) -> None:
        self._networks = parse_networks(self.config.internal_addresses)

    def on_request(self, request: Request) -> None:
        config = self.config
        given = request.headers.get(config.header)
        if given is None or not acceptable(given, config.longest) or not self._keeps(request):
            number = new_id(config.format)
            request.headers[config.header] = number if given is None else with_trace_reason(number, given)
        if config.copy_to:
            for name in config.copy_to:
                request.headers[name] = request.headers[config.header]

    def on_response(self, request: Request, response: Response) -> None:
        if self.config.respond:
            number = request.headers.get(self.config.header)
            if number is not None:
                response.headers[self.config.header] = number

    def _keeps(self, request: Request) -> bool:
        config = self.config
        if config.keep != "internal":
            return config.keep == "always"
        properties = request.properties
        return (
            request.headers.get(INTERNAL) == "true"
            or (bool(self._networks) and within(parse_source(properties.source_address), self._networks))
            or (
                bool(config.internal_identities)
                and matches_identity(properties.peer_identity, config.internal_identities)
            )
        )


def acceptable(value: str, longest: int) -> bool:
    """Whether an id may stay as it came: one value, of few characters, not too long."""
    return len(value) <= longest and WELL_FORMED.fullmatch(value) is not None


def new_id(form: str) -> str:
    """A new id."""
    if form == "uuid4":
        return str(uuid.uuid4())
    if form == "hex":
        return secrets.token_hex(16)
    return str(uuid7(int(time.time() * 1000), secrets.randbits(74)))


def uuid7(milliseconds: int, random: int) -> uuid.UUID:
    """RFC 9562: 48 bits of time, the version, and 74 random bits around the variant."""
    high, low = random >> 62, random & (1 << 62) - 1
    return uuid.UUID(int=(milliseconds & (1 << 48) - 1) << 80 | 7 << 76 | high << 64 | 2 << 62 | low)


def with_trace_reason(new: str, old: str) -> str:
    """`new` with the trace decision Envoy has written into `old`, if both are UUIDs in its format."""
    if UUID.fullmatch(new) and new[TRACE_REASON] == "4" and UUID.fullmatch(old) and old[TRACE_REASON] in TRACE_REASONS:
        return new[:TRACE_REASON] + old[TRACE_REASON] + new[TRACE_REASON + 1 :]
    return new
