"""What `authenticate` made of the same token before: its work is a function of a few texts of the request, of the keys, and of the time.

An entry counts only for the very texts, for the very key sets that verified it, and while each of its tokens is valid. Bounded in number
and in bytes. Refusals are never kept, nor is anything that another time or another key might change.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from extauthz.authenticate import Authentication
from extauthz.tokens import CLOCK_SKEW_SECONDS, TokenRefused, VerifiedToken
from lateen.jwks.keys import KeySet
from lateen.policy.rules import CompiledRule
from lateen.policy.tokens import KeySource, TokenRule, TokenRules

_LONGEST_KEY: Final = 16 * 1024
_MOST_ANSWERS: Final = 16
_NEVER: Final = float("inf")
Key = tuple[object, ...]


@dataclass(slots=True)
class Seen:
    """A result, how long it counts, and the answers that were made of it, by the rule that allowed."""

    authentication: Authentication
    held: tuple[tuple[KeySource, KeySet], ...]
    not_before: float
    expires: float
    answers: dict[CompiledRule | None, bytes] = field(default_factory=dict)

    def answer(self, rule: CompiledRule | None, make: Callable[[], bytes]) -> bytes:
        """The encoded answer for a request that this rule allowed."""
        found = self.answers.get(rule)
        if found is None:
            found = make()
            if len(self.answers) < _MOST_ANSWERS:
                self.answers[rule] = found
        return found


class SeenTokens:
    """The results of one set of policies: with a new `generation` it begins anew, so that nothing old is kept alive."""

    def __init__(self, most: int = 10_000, most_bytes: int = 32 * 1024 * 1024) -> None:
        """Start empty."""
        self._most = most
        self._most_bytes = most_bytes
        self._bytes = 0
        self._generation = -1
        self._entries: OrderedDict[Key, tuple[Seen, int]] = OrderedDict()

    def __len__(self) -> int:
        """Number of results held."""
        return len(self._entries)

    def get(self, key: Key, generation: int, now: float, keys: Callable[[KeySource], KeySet | None]) -> Seen | None:
        """The result, if it still counts."""
        if generation != self._generation:
            self._entries.clear()
            self._bytes, self._generation = 0, generation
        entry = self._entries.get(key)
        if entry is None:
            return None
        seen = entry[0]
        if not seen.not_before <= now + CLOCK_SKEW_SECONDS or now > seen.expires + CLOCK_SKEW_SECONDS:
            return None
        for source, held in seen.held:
            if keys(source) is not held:
                return None
        self._entries.move_to_end(key)
        return seen

    def put(self, key: Key, seen: Seen) -> None:
        """Keep a result; the least recently used ones make room."""
        size = sum(len(part) for part in key if isinstance(part, str))
        if size > _LONGEST_KEY:
            return
        before = self._entries.pop(key, None)
        self._bytes += size - (before[1] if before is not None else 0)
        self._entries[key] = (seen, size)
        while len(self._entries) > self._most or self._bytes > self._most_bytes:
            _, (_, gone) = self._entries.popitem(last=False)
            self._bytes -= gone


def key_of(rules: TokenRules, owner: object, headers: Mapping[str, str], query: str) -> Key:
    """Everything of a request that its authentication depends on; `owner` stands for the rules."""
    if query and not ("%" in query or "+" in query or any(name in query for name in rules.parameters)):
        query = ""  # no parameter that is looked at, however it were written
    return (owner, query if rules.parameters else "", *(headers.get(name) for name in rules.headers))


class Watched:
    """A `verify` that remembers what it relied on."""

    def __init__(self, verify: Callable[[str, TokenRule], VerifiedToken]) -> None:
        """Wrap `verify`."""
        self._verify = verify
        self._lasting = True
        self._not_before = 0.0
        self._expires = _NEVER

    def __call__(self, token: str, rule: TokenRule) -> VerifiedToken:
        """As `verify`."""
        try:
            verified = self._verify(token, rule)
        except TokenRefused as refused:
            # Whose token it is not, it never will be; everything else may come out differently with time or with other keys.
            self._lasting = self._lasting and refused.other_issuer
            raise
        if verified.not_before is not None:
            self._not_before = max(self._not_before, verified.not_before)
        if verified.expires is not None:
            self._expires = min(self._expires, verified.expires)
        return verified

    def seen(self, authentication: Authentication, held: Mapping[KeySource, KeySet | None]) -> Seen | None:
        """The result to keep; None when it must not be kept."""
        keys = tuple((source, keys) for source, keys in held.items() if keys is not None)
        if not self._lasting:
            return None
        return Seen(authentication, keys, self._not_before, self._expires)
