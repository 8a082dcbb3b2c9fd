"""pii-redaction: personal data taken out of response bodies."""

import re
from typing import Literal

from filters.library.content_types import content_type, readable
from filters.library.credentials import denied
from filters.library.paths import AMBIGUOUS, check_paths, matches_path
from filters.library.pii_json import UnreadableError, field_pattern, redact_json
from filters.library.pii_patterns import FINDERS, Masks, finder_of, redact_text
from filters.library.safe_regex import UnsafePatternError, worst_case
from lateen_filter import BodyTooLargeError, Counter, FilterConfig, HttpFilter, Request, Response

MOST_BODY = 16 * 1024 * 1024
MOST_KEPT = 4
MOST_WIDTH, MOST_STEPS = 256, 2000
"""Of a pattern, for each character of a body."""
MOST_FIELDS, MOST_PATTERNS = 200, 20
NO_BODY, PARTIAL = frozenset({204, 304}), 206
JSON, JSON_LINES = (
    ("application/json", "text/json", "text/x-json", "application/x-json"),
    ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/jsonlines"),
)
ENDLESS = ("text/event-stream", "multipart/x-mixed-replace")
LOST = ("content-md5", "digest", "content-digest", "repr-digest", "accept-ranges")
"""Headers that speak of the body as it was."""
redacted = Counter("pii_redaction_redacted")
refused = Counter("pii_redaction_refused")
passed_unread = Counter("pii_redaction_passed_unread")


class CustomPattern(FilterConfig):
    """A pattern of one's own. It must be bounded in length ({1,20} in place of +): it is searched in whole bodies."""

    name: str
    pattern: re.Pattern[str]

    def validate(self) -> None:
        try:
            cost = worst_case(self.pattern, MOST_WIDTH + 1)
        except UnsafePatternError as error:
            raise ValueError(f"pattern {self.name!r}: {error}") from None
        if not 0 < cost.width <= MOST_WIDTH or cost.steps > MOST_STEPS:
            raise ValueError(
                f"pattern {self.name!r} must match 1 to {MOST_WIDTH} characters, in few ways: bound its repeats"
            )


class PiiRedaction(HttpFilter):
    """Masks fields of JSON by name, and e-mail addresses, card numbers, IBANs and US social security numbers in any text.

    It asks the upstream for a body it can read: accept-encoding and range are taken off the request. What is too large, encoded
    or malformed all the same is refused with 502, or passed as it is, as the configuration says.
    """

    class Config(FilterConfig):
        fields_to_mask: tuple[str, ...] = ()
        """Names in JSON, at any depth and in any case, whose values are masked whole; a `*` is anything: "*password*"."""
        patterns: tuple[Literal["email", "card", "iban", "ssn"], ...] = ("email", "card", "iban", "ssn")
        """Card numbers and IBANs only with the right check digits."""
        custom_patterns: tuple[CustomPattern, ...] = ()
        """Searched in texts, and in strings of JSON."""
        mask: str = "[redacted]"
        keep_last: int = 0
        """Digits of cards, IBANs and SSNs that stay, at most 4."""
        paths: tuple[str, ...] = ("/",)
        """Whose responses are looked at: whole segments, a `*` at the end for any ending."""
        content_types: tuple[str, ...] = (
            "application/json", "application/*+json", *JSON_LINES, "text/*", "application/xml", "application/*+xml",
            "application/yaml", "application/x-yaml", "application/javascript",
        )  # fmt: skip
        """Which bodies are looked at; others, and those without a type, pass. A `*` is anything, by itself also no type."""
        longest_body: int = 1024 * 1024
        """Bytes. Envoy buffers 1 MiB unless it is told otherwise."""
        too_large: Literal["refuse", "pass"] = "refuse"
        """Also bodies that do not end: text/event-stream."""
        encoded: Literal["refuse", "pass"] = "refuse"
        """A content-encoding (gzip), a character set other than UTF-8 and Latin ones, or a part of a body (206)."""
        malformed: Literal["refuse", "pass"] = "refuse"
        """What is said to be JSON and is not, or is nested too deeply."""

        def validate(self) -> None:
            if not 1 <= self.longest_body <= MOST_BODY:
                raise ValueError(f"longestBody is {self.longest_body}: between 1 and {MOST_BODY}")
            if not 0 <= self.keep_last <= MOST_KEPT:
                raise ValueError(f"keepLast is {self.keep_last}: between 0 and {MOST_KEPT}")
            if len(self.fields_to_mask) > MOST_FIELDS or len(self.custom_patterns) > MOST_PATTERNS:
                raise ValueError(f"at most {MOST_FIELDS} fields and {MOST_PATTERNS} patterns")
            for name in self.fields_to_mask:
                if not name.strip("*") or '"' in name or "\\" in name or name.count("*") > 2:  # noqa: PLR2004
                    raise ValueError(f"field {name!r}: a name without quotes and backslashes, with two * at most")
            check_paths("paths", self.paths)
            for kind in self.content_types:
                if not kind or kind != kind.lower() or kind.count("*") > 1 or ";" in kind:
                    raise ValueError(f"contentTypes: {kind!r}: lower case, no parameters, one * at most")
            if any(letter < " " for letter in self.mask):
                raise ValueError("mask: no control characters")
            if not (self.fields_to_mask or self.patterns or self.custom_patterns):
                raise ValueError("there is nothing to look for")

    config: Config

    def on_start(self) -> None:
        config = self.config
        self._fields = field_pattern(config.fields_to_mask)
        self._finders = tuple(FINDERS[name] for name in dict.fromkeys(config.patterns))
        self._custom = tuple(finder_of(custom.pattern, custom.name) for custom in config.custom_patterns)
        self._masks = Masks(config.mask, config.keep_last)

    def on_request(self, request: Request) -> None:
        if covered(request.path, self.config.paths):
            for name in ("accept-encoding", "range", "if-range"):
                request.headers.pop(name, None)

    async def on_response(self, request: Request, response: Response) -> Response | None:
        config, headers = self.config, response.headers
        kind, charset = content_type(headers.get("content-type", ""))
        if (
            not covered(request.path, config.paths)
            or not matches_type(kind, config.content_types)
            or request.method == "HEAD"
            or response.status in NO_BODY
        ):
            return None
        if not readable(headers.get("content-encoding", ""), charset) or response.status == PARTIAL:
            return unreadable(config.encoded, "is encoded or a part")
        if kind in ENDLESS:
            return unreadable(config.too_large, "does not end")
        if too_long(headers.get("content-length", ""), config.longest_body):
            return unreadable(config.too_large, "is too large")
        try:
            body = await response.body(config.longest_body)
        except BodyTooLargeError:
            return unreadable(config.too_large, "is too large")
        if not body:
            return None
        # Every byte has a character and gets back to it, whatever the encoding.
        text = body.decode("utf-8", "surrogateescape")
        try:
            new, found = self._redact(text, kind)
        except UnreadableError as error:
            return unreadable(config.malformed, str(error))
        if found:
            redacted.add(found)
            for name in LOST:
                headers.pop(name, None)
            response.set_body(new.encode("utf-8", "surrogateescape"))
        return None

    def _redact(self, text: str, kind: str) -> tuple[str, int]:
        if kind in JSON or kind.endswith("+json"):
            return redact_json(text, self._fields, self._finders, self._custom, self._masks)
        if kind not in JSON_LINES and text.lstrip("\ufeff \t\r\n")[:1] in ("{", "["):
            try:  # JSON by another name
                return redact_json(text, self._fields, self._finders, self._custom, self._masks)
            except UnreadableError:
                pass
        if kind in JSON_LINES:
            lines = [
                redact_json(line, self._fields, self._finders, self._custom, self._masks) if line.strip() else (line, 0)
                for line in text.split("\n")
            ]
            return "\n".join(line for line, _ in lines), sum(found for _, found in lines)
        return redact_text(text, (*self._finders, *self._custom), self._masks)


def unreadable(action: str, reason: str) -> Response | None:
    """What the client gets in place of a body that cannot be looked through."""
    if action == "pass":
        passed_unread.add()
        return None
    refused.add()
    print(f"pii-redaction refuses a response: its body {reason}")  # noqa: T201  (Envoy's log)
    return denied(502, "the response cannot be checked for personal data")


def too_long(length: str, longest: int) -> bool:
    """Whether a content-length says so."""
    return length.isascii() and length.isdigit() and int(length[:20]) > longest


def covered(path: str, patterns: "tuple[str, ...]") -> bool:
    """Whether a path is under one of the patterns, or may be to a server that reads it in another way."""
    return matches_path(path, patterns) or AMBIGUOUS.search(path) is not None


def matches_type(kind: str, patterns: "tuple[str, ...]") -> bool:
    """Whether a type is one of the patterns; a `*` in one is anything."""
    for pattern in patterns:
        before, star, after = pattern.partition("*")
        if kind == pattern or (
            star and len(kind) >= len(pattern) - 1 and kind.startswith(before) and kind.endswith(after)
        ):
            return True
    return False
