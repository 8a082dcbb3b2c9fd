"""One-use join tokens: what lets a replica ask for its first certificate. In memory only, so that no restart revives a used one."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from ca.identity import Identity

MAX_TOKENS = 20_000
MAX_TOKEN_LIFETIME = timedelta(days=1)
_ID_BYTES = 8
_SECRET_BYTES = 32
_MAX_TOKEN_CHARACTERS = 128


class TooManyTokensError(Exception):
    """The table is full of tokens that nobody has used yet."""


@dataclass(frozen=True, slots=True)
class _Entry:
    digest: bytes
    identity: Identity
    expires: datetime


class TokenTable:
    """Tokens that were handed out and not used: `mint` adds one, `redeem` takes it away.

    A token is `ID.SECRET`: the public id finds the entry, the 256 bit secret is kept only as a hash and compared in constant time.
    """

    def __init__(self, limit: int = MAX_TOKENS) -> None:
        self._limit = limit
        self._entries: dict[str, _Entry] = {}

    def __len__(self) -> int:
        """How many tokens are waiting, expired ones included."""
        return len(self._entries)

    def mint(self, identity: Identity, now: datetime, lifetime: timedelta) -> str:
        """A fresh token for `identity`; TooManyTokensError when the table is full of live ones."""
        if len(self._entries) >= self._limit:
            self._forget_expired(now)
        if len(self._entries) >= self._limit:
            raise TooManyTokensError(f"{self._limit} join tokens are waiting to be used")
        name, secret = secrets.token_hex(_ID_BYTES), secrets.token_urlsafe(_SECRET_BYTES)
        self._entries[name] = _Entry(_digest(secret), identity, now + min(lifetime, MAX_TOKEN_LIFETIME))
        return f"{name}.{secret}"

    def redeem(self, token: str, now: datetime) -> Identity | None:
        """Who the token speaks for, once; None if it is unknown, used, wrong or expired."""
        if len(token) > _MAX_TOKEN_CHARACTERS:
            return None
        name, _, secret = token.partition(".")
        entry = self._entries.get(name)
        if entry is None or not hmac.compare_digest(entry.digest, _digest(secret)):
            return None
        del self._entries[name]
        return entry.identity if now < entry.expires else None

    def _forget_expired(self, now: datetime) -> None:
        for name in [name for name, entry in self._entries.items() if entry.expires <= now]:
            del self._entries[name]


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
