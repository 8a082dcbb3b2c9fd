"""ab-testing: every user in one variant of an experiment, the same everywhere and always."""

import hashlib
import math
import re
import secrets
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from filters.library.credentials import check_header
from lateen_filter import FilterConfig, HttpFilter, Request, Response

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
LONGEST_KEY = 1024
MOST_VARIANTS, MOST_WEIGHT = 100, 1_000_000
YEAR_SECONDS = 366 * 24 * 3600
MASK = (1 << 64) - 1


class Variant(FilterConfig):
    """One side of the experiment."""

    name: str
    weight: int
    """Its share is the weight over the sum of all weights; 0 takes nobody new."""

    def validate(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no name of a variant: letters, digits and _.-")
        if not 0 <= self.weight <= MOST_WEIGHT:
            raise ValueError(f"weight of {self.name} is {self.weight}: between 0 and {MOST_WEIGHT}")


class Source(FilterConfig):
    """Where a user's key is."""

    kind: Literal["header", "cookie", "principal"]
    """The caller's SPIFFE identity is its principal."""
    name: str = ""

    def validate(self) -> None:
        if (self.kind == "principal") == bool(self.name):
            raise ValueError(f"a key of kind {self.kind} {'has no' if self.name else 'needs a'} name")
        if self.name:
            check_header("name", self.name)


class StickyCookie(FilterConfig):
    """Keeps users in their variant when weights change, and those without a key."""

    name: str
    max_age_seconds: int = 30 * 24 * 3600
    path: str = "/"
    secure: bool = True

    def validate(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no name of a cookie: letters, digits and _.-")
        if not 0 < self.max_age_seconds <= YEAR_SECONDS:
            raise ValueError("maxAgeSeconds: between 1 s and a year")
        if not re.fullmatch(r"/[!-:<-~]*", self.path):
            raise ValueError(f"path: {self.path!r} is no path of a cookie")


class AbTesting(HttpFilter):
    """Puts each user into a variant and tells the upstream in a header, which routes and services can look at.

    The variant is computed from a hash of experiment and key (SHA-256): every Envoy, worker and build comes to the same. Without
    a key it is drawn, and kept in the sticky cookie if there is one. A client can choose its variant by sending that cookie.
    """

    class Config(FilterConfig):
        experiment: str
        """Its name; two experiments mix independently of each other."""
        variants: tuple[Variant, ...]
        keys: tuple[Source, ...] = ()
        """The first that a request has counts."""
        header: str = "x-variant"
        """Set for the upstream, whatever the client has sent."""
        respond: bool = False
        """The same header in the response."""
        sticky_cookie: StickyCookie | None = None

        def validate(self) -> None:
            if not NAME.fullmatch(self.experiment):
                raise ValueError(f"{self.experiment!r} is no name of an experiment: letters, digits and _.-")
            names = [variant.name for variant in self.variants]
            if not 1 <= len(names) <= MOST_VARIANTS or len(set(names)) < len(names):
                raise ValueError(f"variants: between 1 and {MOST_VARIANTS}, each with a name of its own")
            if not sum(variant.weight for variant in self.variants):
                raise ValueError("all weights are 0")
            check_header("header", self.header, written=True)

    config: Config

    def on_request(self, request: Request) -> None:
        sticky = self._sticky(request)
        if sticky is None:
            key = self._key(request)
            number = secrets.randbits(64) if key is None else hash_of(self.config.experiment, key)
            sticky = variant_of(number, self.config.variants)
        request.headers[self.config.header] = sticky

    def on_response(self, request: Request, response: Response) -> None:
        config = self.config
        variant = request.headers.get(config.header)
        if variant is None:
            return
        if config.respond:
            response.headers[config.header] = variant
        cookie = config.sticky_cookie
        if cookie is not None and request.cookies.get(cookie.name) != variant:
            value = f"{cookie.name}={variant}; Path={cookie.path}; Max-Age={cookie.max_age_seconds}"
            response.headers.add("set-cookie", f"{value}; HttpOnly; SameSite=Lax{'; Secure' * cookie.secure}")

    def _sticky(self, request: Request) -> str | None:
        cookie = self.config.sticky_cookie
        value = request.cookies.get(cookie.name) if cookie else None
        return value if any(value == variant.name for variant in self.config.variants) else None

    def _key(self, request: Request) -> str | None:
        for source in self.config.keys:
            if source.kind == "header":
                key = request.headers.get(source.name)
            elif source.kind == "cookie":
                key = request.cookies.get(source.name)
            else:
                key = request.properties.peer_identity
            if key:
                return str(key)[:LONGEST_KEY]
        return None


def hash_of(experiment: str, key: str) -> int:
    """64 bits that are the same everywhere: the first bytes of SHA-256 of experiment, NUL, key."""
    text = f"{experiment}\0{key}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")


def variant_of(number: int, variants: Sequence[Variant]) -> str:
    """The variant of 64 bits, each with the probability of its weight, in whatever order they stand (rendezvous hashing).

    When weights change, the only ones to move are those whom a variant takes that has grown in proportion to theirs.
    """
    # Each variant draws a waiting time, the shorter the greater its weight, and the first to come takes the user.
    first, chosen = math.inf, ""
    for variant in variants:
        if variant.weight:
            time = -math.log((mixed(number ^ seed_of(variant.name)) + 1) / (MASK + 1)) / variant.weight
            if time < first:
                first, chosen = time, variant.name
    return chosen


@lru_cache(MOST_VARIANTS)
def seed_of(name: str) -> int:
    """64 bits of a variant's name."""
    return hash_of("variant", name)


def mixed(number: int) -> int:
    """64 bits of which each depends on all of `number` (the finalizer of splitmix64: a hash costs ten times as much)."""
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & MASK
    number = (number ^ number >> 27) * 0x94D049BB133111EB & MASK
    return number ^ number >> 31
