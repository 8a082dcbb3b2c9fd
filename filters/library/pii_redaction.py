"""pii-redaction: personal data taken out of response bodies."""

import re
from typing import Literal

from filters.library.credentials import denied
from filters.library.paths import matches_path
from filters.library.pii_json import UnreadableError, field_pattern, redact_json
from filters.library.pii_patterns import FINDERS, Masks, finder_of, redact_text
from filters.library.safe_regex import UnsafePatternError, worst_case
from lateen_filter import BodyTooLargeError, Counter, FilterConfig, HttpFilter, Request, Response

MOST_BODY = 16 * 1024 * 1024
MOST_KEPT = 4
MOST_WIDTH, MOST_STEPS = 256, 2000
"""Of a pattern, for each character of a body."""
MOST_FIELDS, MOST_PATTERNS = 200, 20
NO_BODY = frozenset({204, 304})
LOST = ("content-md5", "digest", "content-digest", "repr-digest", "accept-ranges")
"""Headers that speak of the body as it was."""
ENCODINGS = frozenset({"utf-8", "us-ascii", "ascii", "iso-8859-1", "iso-8859-15", "windows-1252", "latin1", ""})
"""In which what is looked for looks the same."""
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
        content_types: tuple[str, ...] = ("application/json", "application/*+json", "application/x-ndjson", "text/*")
        """Which bodies are looked at; others, and those without a type, pass."""
        longest_body: int = 1024 * 1024
        """Bytes. Envoy buffers 1 MiB unless it is told otherwise."""
        too_large: Literal["refuse", "pass"] = "refuse"
        encoded: Literal["refuse", "pass"] = "refuse"
        """A content-encoding (gzip), or a character set other than UTF-8 and Latin ones."""
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
        if matches_path(request.path, self.config.paths):
            for name in ("accept-encoding", "range", "if-range"):
                request.headers.pop(name, None)

    async def on_response(self, request: Request, response: Response) -> Response | None:
        config, headers = self.config, response.headers
        kind, charset = content_type(headers.get("content-type", ""))
        if (
            not matches_path(request.path, config.paths)
            or not matches_type(kind, config.content_types)
            or request.method == "HEAD"
            or response.status in NO_BODY
        ):
            return None
        if headers.get("content-encoding", "identity") not in ("identity", "") or charset not in ENCODINGS:
            return unreadable(config.encoded, "is encoded")
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
        if kind == "application/json" or kind.endswith("+json"):
            return redact_json(text, self._fields, self._finders, self._custom, self._masks)
        if kind in ("application/x-ndjson", "application/jsonl"):
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


def content_type(header: str) -> tuple[str, str]:
    """Type and character set, in lower case."""
    kind, _, parameters = header.lower().partition(";")
    charset = ""
    for parameter in parameters.split(";"):
        name, _, value = parameter.strip().partition("=")
        if name == "charset":
            charset = value.strip('"')
    return kind.strip(), charset


def matches_type(kind: str, patterns: "tuple[str, ...]") -> bool:
    """Whether a type is one of the patterns; a `*` in one is anything."""
    for pattern in patterns:
        before, star, after = pattern.partition("*")
        if kind == pattern or (
            star and len(kind) >= len(pattern) - 1 and kind.startswith(before) and kind.endswith(after)
        ):
            return True
    return False
