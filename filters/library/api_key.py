"""api-key: callers by the key they send, of which only a hash is kept."""

import hashlib
import hmac
import time
from collections.abc import Sequence
from typing import NamedTuple

from filters.library.credentials import (
    HEADER_NAME,
    check_header,
    check_trusted_header,
    denied,
    spellings,
    take_off,
    without_cookie,
    without_parameter,
)
from filters.library.paths import check_paths, excepts_path
from filters.library.times import parse_time
from lateen_filter import Counter, FilterConfig, HttpFilter, Request, Response

LONGEST_KEY = 512
MOST_KEYS = 1000
DIGEST_DIGITS = 64
refused = Counter("api_key_refused")


class Key(FilterConfig):
    """A key and whose it is."""

    consumer: str
    """The name that is forwarded."""
    sha256: str
    """SHA-256 of the key in hexadecimal digits: `printf %s "$KEY" | sha256sum`. The key should be random, 128 bits or more."""
    not_after: str | None = None
    """RFC 3339, with a time zone: refused from then on. For a change of keys: give a consumer two."""

    def validate(self) -> None:
        if len(self.sha256) != DIGEST_DIGITS or not set(self.sha256.lower()) <= set("0123456789abcdef"):
            raise ValueError(f"sha256 of consumer {self.consumer!r} must be {DIGEST_DIGITS} hexadecimal digits")
        if not self.consumer or not (self.consumer.isascii() and self.consumer.isprintable()):
            raise ValueError(f"consumer {self.consumer!r}: printable ASCII, please: it becomes a header")
        if self.not_after is not None:
            parse_time(self.not_after)


class ApiKey(HttpFilter):
    """Lets requests with a known key pass, and tells the upstream whose it is.

    The consumer's header, also with underscores, is taken off every request before, so that a client cannot choose it. A request
    that sends keys in more than one place, or several in one, is refused: another server might take the other one.
    """

    class Config(FilterConfig):
        keys: tuple[Key, ...]
        header: str = "x-api-key"
        """Where the key is: a header (empty: none), ..."""
        scheme: str = ""
        """What stands before the key in the header: "Bearer" for authorization. Other schemes count as no key."""
        query: str = ""
        """... a parameter of the query ..."""
        cookie: str = ""
        """... or a cookie."""
        consumer_header: str = "x-consumer"
        """The header with the consumer's name."""
        forward_key: bool = False
        """Leave the key in the request."""
        allow_missing: bool = False
        """Let requests without a key pass, without a consumer; a key that is not known is still refused."""
        except_paths: tuple[str, ...] = ()
        """Paths that need no key: whole segments ("/health"), a `*` at the end for any ending."""
        realm: str = "api"

        def validate(self) -> None:
            if not 1 <= len(self.keys) <= MOST_KEYS:
                raise ValueError(f"{len(self.keys)} keys: between 1 and {MOST_KEYS}")
            if len({key.sha256.lower() for key in self.keys}) < len(self.keys):
                raise ValueError("two keys have the same sha256")
            if not (self.header or self.query or self.cookie):
                raise ValueError("where is the key? set header, query or cookie")
            if self.header:
                check_header("header", self.header)
            for field, name in (("scheme", self.scheme), ("cookie", self.cookie)):
                if name and not HEADER_NAME.fullmatch(name):
                    raise ValueError(f"{field}: {name!r} is not one word")
            check_trusted_header("consumerHeader", self.consumer_header)
            if self.consumer_header.lower() == self.header.lower():
                raise ValueError("consumerHeader must be a header of its own")
            check_paths("exceptPaths", self.except_paths)
            if set('"\\') & set(self.realm) or not (self.realm.isascii() and self.realm.isprintable()):
                raise ValueError("realm: printable ASCII without quotes and backslashes")

    config: Config

    def on_start(self) -> None:
        self._keys = known_keys(self.config.keys)
        self._spellings = spellings(self.config.consumer_header)

    def on_request(self, request: Request) -> Response | None:
        config, headers = self.config, request.headers
        take_off(headers, self._spellings)
        if excepts_path(request.path, config.except_paths):
            if not config.forward_key:
                self._strip(request)
            return None
        presented = self._presented(request)
        if not presented and config.allow_missing:
            return None
        if len(presented) != 1:
            return self._refuse("an API key is needed" if not presented else "more than one API key")
        consumer = consumer_of(presented[0], self._keys, time.time())
        if consumer is None:
            return self._refuse("the API key is not valid")
        headers[config.consumer_header] = consumer
        if not config.forward_key:
            self._strip(request)
        return None

    def _presented(self, request: Request) -> list[str]:
        """All keys in the request."""
        config, headers = self.config, request.headers
        found = []
        if config.header and config.header in headers:
            for value in headers.get_all(config.header):
                scheme, _, key = value.partition(" ") if config.scheme else ("", "", value)
                if scheme.lower() == config.scheme.lower():
                    found.append(key.strip())
        if config.query:
            found += without_parameter(request.target, config.query)[1]
        if config.cookie and "cookie" in headers:
            found += without_cookie("; ".join(headers.get_all("cookie")), config.cookie)[1]
        return found

    def _strip(self, request: Request) -> None:
        config, headers = self.config, request.headers
        if config.header and config.header in headers:
            rest = [
                value
                for value in headers.get_all(config.header)
                if config.scheme and value.partition(" ")[0].lower() != config.scheme.lower()
            ]
            del headers[config.header]
            for value in rest:
                headers.add(config.header, value)
        if config.query:
            target, removed = without_parameter(request.target, config.query)
            if removed:
                request.target = target
        if config.cookie and "cookie" in headers:
            cookies, removed = without_cookie("; ".join(headers.get_all("cookie")), config.cookie)
            if removed and cookies:
                headers["cookie"] = cookies
            elif removed:
                del headers["cookie"]

    def _refuse(self, reason: str) -> Response:
        refused.add()
        return denied(
            401, reason, {"www-authenticate": f'{self.config.scheme or "ApiKey"} realm="{self.config.realm}"'}
        )


class KnownKey(NamedTuple):
    """A key, ready to compare."""

    digest: bytes
    consumer: str
    until: float


def known_keys(keys: Sequence[Key]) -> tuple[KnownKey, ...]:
    """Of the configuration."""
    return tuple(
        KnownKey(
            bytes.fromhex(key.sha256),
            key.consumer,
            float("inf") if key.not_after is None else parse_time(key.not_after),
        )
        for key in keys
    )


def consumer_of(key: str, keys: Sequence[KnownKey], now: float) -> str | None:
    """Whose key this is. All digests are compared, each in constant time: how long it takes says nothing."""
    if not 0 < len(key) <= LONGEST_KEY:
        return None
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
    found: str | None = None
    for known in keys:
        if hmac.compare_digest(known.digest, digest) and now < known.until:
            found = known.consumer
    return found
