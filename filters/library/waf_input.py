"""What a request holds, as values a pattern can look at: decoded as often as attackers encode, and bounded."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

MOST_DECODINGS = 3
PIECE, OVERLAP = 4096, 256
"""Values are looked at in pieces, so that no pattern gets more; what is shorter than the overlap is never cut."""
ESCAPE = re.compile(r"%(?:u([0-9a-fA-F]{4})|([0-9a-fA-F]{2}))")
ENTITY = re.compile(
    r"&#(?:[xX]([0-9a-fA-F]{1,6})|([0-9]{1,7}));?|&(lt|gt|quot|apos|amp|colon|tab|newline|lpar|rpar|nbsp|sol|bsol);?",
    re.IGNORECASE,
)
ENTITIES: Mapping[str, str] = {
    "lt": "<", "gt": ">", "quot": '"', "apos": "'", "amp": "&", "colon": ":", "tab": " ", "newline": " ", "lpar": "(", "rpar": ")",
    "nbsp": " ", "sol": "/", "bsol": "\\",
}  # fmt: skip
HIGHEST = 0x10FFFF
FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}
"""Letters that databases and browsers may read as ASCII."""
WHITE = re.compile(r"[\s\x00-\x20\x7f]+")
HARMLESS = re.compile(r"[\w-]{0,200}", re.ASCII)
"""No pattern of ours matches a single word."""
PLAIN_PATH = re.compile(r"[\w/.,:@~+-]*", re.ASCII)
"""Nor, but for those that look for paths, this."""
BLOCK_COMMENT, COMMENT = re.compile(r"/\*"), re.compile(r"/\*|--|#")
MOST_JSON_VALUES = 5000
MULTIPART = "multipart/form-data"


class Value(NamedTuple):
    """Something a client has sent."""

    kind: str
    """arg, cookie, header, body, path or agent."""
    target: str
    """For exclusions and the log: "arg:q"."""
    text: str


class MalformedBodyError(ValueError):
    """A body is not what its content-type says, or holds too many values."""


def query_values(query: str) -> Iterator[Value]:
    """Names and values of parameters, in a query or a form."""
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if not part:
            continue
        name, value = name.replace("+", " "), value.replace("+", " ")
        yield Value("arg", f"arg:{decoded(name)[:64]}", value)
        if not HARMLESS.fullmatch(name):
            yield Value("arg", "arg", name)


def cookie_values(header: str) -> Iterator[Value]:
    """Values of cookies, also of those of the same name, and names that are none."""
    for part in header.split(";"):
        name, _, value = part.strip().partition("=")
        if value:
            yield Value("cookie", f"cookie:{name[:64]}", value)
        if not HARMLESS.fullmatch(name):
            yield Value("cookie", "cookie", name)


def body_values(kind: str, body: bytes, boundary: str = "") -> Iterator[Value]:
    """Values in a body of a content type; MalformedBodyError if it cannot be read."""
    text = body.decode("utf-8", "surrogateescape")
    if kind == "application/x-www-form-urlencoded":
        found: Iterable[str] = (value.text for value in query_values(text))
    elif kind == MULTIPART:
        found = form_parts(text, boundary)
    elif kind == "application/json" or kind.endswith("+json"):
        found = json_strings(text)
    else:
        found = text_values(text)
    for item in found:
        yield Value("body", "body", item)


def text_values(text: str) -> Iterator[str]:
    """A text; if it is JSON, what it holds too: not every server asks for the content type before it parses."""
    yield text
    if text.lstrip()[:1] in ("{", "["):
        try:
            yield from json_strings(text)
        except MalformedBodyError:
            return  # what it looked like


def form_parts(text: str, boundary: str) -> Iterator[str]:
    """Headers and values of the fields of a multipart form, and the headers of its files; all of it if there is no boundary."""
    first, *parts = text.split("--" + boundary) if boundary else (text,)
    yield first
    for part in parts:
        head, _, content = part.partition("\r\n\r\n")
        yield head
        if "filename" not in head.lower():
            yield content


def pieces(text: str) -> Iterator[str]:
    """A text in pieces that a pattern may be given."""
    if len(text) <= PIECE:
        yield text
        return
    for start in range(0, max(1, len(text) - OVERLAP), PIECE - OVERLAP):
        yield text[start : start + PIECE]


def json_strings(text: str) -> Iterator[str]:
    """Names, strings and numbers of a JSON text, at any depth."""
    try:
        # Pairs, not a dictionary: of two equal names the upstream may take the other one.
        pending = [json.loads(text, parse_int=str, parse_float=str, object_pairs_hook=tuple)]
    except RecursionError:
        raise MalformedBodyError("nested too deeply") from None
    except ValueError:
        raise MalformedBodyError("not JSON") from None
    count = 0
    while pending:
        item = pending.pop()
        if isinstance(item, (list, tuple)):
            pending += item
        elif isinstance(item, str):
            count += 1
            if count > MOST_JSON_VALUES:
                raise MalformedBodyError(f"more than {MOST_JSON_VALUES} values")
            yield item


def decoded(text: str) -> str:
    """Percent-decoding (also %uXXXX), again while it changes something, three times at most; bytes become UTF-8 if they are."""
    for _ in range(MOST_DECODINGS):
        if "%" not in text:
            break
        new = ESCAPE.sub(_unescape, text)
        if new == text:
            break
        text = new
    if not text.isascii():
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape").translate(FULL_WIDTH)
    return text


def _unescape(match: "re.Match[str]") -> str:
    code = int(match.group(1) or match.group(2), 16)
    if match.group(1):
        return "�" if 0xD800 <= code < 0xE000 else chr(code)  # noqa: PLR2004  (surrogates)
    return chr(code) if code < 0x80 else chr(0xDC00 + code)  # noqa: PLR2004  (a byte of UTF-8, put together at the end)


def readings(text: str) -> Iterator[str]:
    """A decoded value as patterns see it: entities decoded, lower case, white space as one space.

    What is a comment to a database is not one to a browser: a value that may hold some is read with and without them.
    """
    if "&" in text:
        text = ENTITY.sub(_entity, text)
    found = [text]
    if "/*" in text:
        found.append(without_comments(text, BLOCK_COMMENT))
    if "\n" in text and ("--" in text or "#" in text):
        found.append(without_comments(text, COMMENT))
    for each in found:
        yield WHITE.sub(" ", each).lower()


def _entity(match: "re.Match[str]") -> str:
    hexadecimal, decimal, name = match.groups()
    if name:
        return ENTITIES[name.lower()]
    code = int(hexadecimal, 16) if hexadecimal else int(decimal)
    return chr(code) if 0 < code <= HIGHEST and not 0xD800 <= code < 0xE000 else " "  # noqa: PLR2004  (surrogates)


def without_comments(text: str, begin: "re.Pattern[str]") -> str:
    """Comments of SQL as a space, what MySQL runs of them (/*!50000 ... */) as it is; `begin` finds where one begins."""
    parts: list[str] = []
    at = 0
    while match := begin.search(text, at):
        block = match.group() == "/*"
        end = text.find("*/" if block else "\n", match.end())
        if end < 0:
            break
        inner = text[match.end() : end] if block else ""
        parts += (text[at : match.start()], " ", inner[1:].lstrip("0123456789") if inner.startswith("!") else "", " ")
        at = end + 2 * block
    return "".join((*parts, text[at:]))
