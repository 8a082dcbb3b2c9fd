"""Personal data in a text: e-mail addresses, card numbers, IBANs, US social security numbers. Linear in the text, whatever it holds."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

LONGEST_LOCAL_PART = 64
LOCAL_PART = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.!#$%&'*+/=?^_`{|}~-")
DOMAIN = re.compile(r"(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}")
# Each of these begins with a set of characters, which `re` looks for quickly; what must not stand before it is asked afterwards.
CARD = re.compile(
    r"[2-6](?<![0-9A-Za-z].)(?<![0-9]\..)"
    r"(?:[0-9]{12,18}"
    r"|[0-9]{3}(?:-[0-9]{4}-[0-9]{4}-[0-9]{4}(?:-[0-9]{3})?|-[0-9]{6}-[0-9]{4,5}"
    r"| [0-9]{4} [0-9]{4} [0-9]{4}(?: [0-9]{3})?| [0-9]{6} [0-9]{4,5}))"
    r"(?![0-9A-Za-z])",
    re.DOTALL,
)
"""Without separators, or in the groups cards are written in."""
CARD_AND_CODE = 19
SSN = re.compile(
    r"[0-8](?<![0-9A-Za-z-].)(?!(?<=0)00|(?<=6)66)[0-9]{2}"
    r"(?:-(?!00)[0-9]{2}-(?!0000)[0-9]{4}| (?!00)[0-9]{2} (?!0000)[0-9]{4})(?![0-9A-Za-z-])",
    re.DOTALL,
)
IBAN_CHECK = re.compile(r"[0-9](?<=[A-Za-z]{2}.)(?<![0-9A-Za-z]...)[0-9](?= ?[0-9A-Za-z])", re.DOTALL)
"""The check digits, with the country before them."""
IBAN_LENGTHS: Mapping[str, int] = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FK FO FI GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK", 21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HN HU LB NI PL SV", 29: "BR EG PS QA UA",
        30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip
"""Of the SWIFT registry."""


class Span(NamedTuple):
    """A place in a text."""

    start: int
    end: int
    kind: str


Finder = Callable[[str], Iterable[Span]]


def find_emails(text: str) -> Iterator[Span]:
    """Addresses, from each @ outwards."""
    at = text.find("@")
    while at >= 0:
        start = at
        while start > 0 and at - start < LONGEST_LOCAL_PART and text[start - 1] in LOCAL_PART:
            start -= 1
        while start < at and text[start] == ".":
            start += 1
        match = DOMAIN.match(text, at + 1) if start < at else None
        if match is not None:
            yield Span(start, match.end(), "email")
        at = text.find("@", match.end() if match else at + 1)


def find_cards(text: str) -> Iterator[Span]:
    """Numbers of payment cards whose check digit is right (ISO/IEC 7812-1)."""
    for match in CARD.finditer(text):
        found = match.group()
        digits = re.sub("[ -]", "", found)
        if luhn(digits):
            yield Span(*match.span(), "card")
        elif len(digits) == CARD_AND_CODE and len(found) > CARD_AND_CODE and luhn(digits[:-3]):
            yield Span(match.start(), match.end() - 4, "card")  # "4111 1111 1111 1111 123": the code stands behind it


def find_ibans(text: str) -> Iterator[Span]:
    """International bank account numbers whose check digits are right (ISO 13616)."""
    for match in IBAN_CHECK.finditer(text):
        start, end = match.start() - 2, match.end()
        taken = text[start:end]
        length = IBAN_LENGTHS.get(taken[:2].upper())
        if length is None:
            continue
        while len(taken) < length:
            if text[end : end + 1] == " ":
                end += 1
            letter = text[end : end + 1]
            if not (letter.isascii() and letter.isalnum()):
                break
            taken += letter
            end += 1
        after = text[end : end + 1]
        if len(taken) == length and not (after.isascii() and after.isalnum()) and iban(taken):
            yield Span(start, end, "iban")


def find_ssns(text: str) -> Iterator[Span]:
    """US social security numbers, with separators, and only those that can have been issued."""
    for match in SSN.finditer(text):
        yield Span(*match.span(), "ssn")


def luhn(digits: str) -> bool:
    """The check digit of a card."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value  # noqa: PLR2004  (the sum of two digits)
    return total % 10 == 0


def iban(text: str) -> bool:
    """The check digits of an IBAN without spaces."""
    moved = text[4:] + text[:4]
    return int("".join(str(int(letter, 36)) for letter in moved)) % 97 == 1


FINDERS: Mapping[str, Finder] = {"email": find_emails, "card": find_cards, "iban": find_ibans, "ssn": find_ssns}


def finder_of(pattern: "re.Pattern[str]", kind: str) -> Finder:
    """A finder of a pattern's matches."""

    def find(text: str) -> Iterator[Span]:
        for match in pattern.finditer(text):
            if match.end() > match.start():
                yield Span(*match.span(), kind)

    return find


def find_all(text: str, finders: Sequence[Finder]) -> list[Span]:
    """What all finders find, in order, the first and longest of those that overlap."""
    spans = sorted((span for find in finders for span in find(text)), key=lambda span: (span.start, -span.end))
    kept: list[Span] = []
    for span in spans:
        if not kept or span.start >= kept[-1].end:
            kept.append(span)
        elif span.end > kept[-1].end:
            kept[-1] = Span(kept[-1].start, span.end, kept[-1].kind)
    return kept


class Masks(NamedTuple):
    """What is put in place of what was found."""

    text: str
    keep_last: int
    """Digits or letters of card, iban and ssn that stay."""

    def of(self, found: str, kind: str) -> str:
        """The mask of something found."""
        if not self.keep_last or kind not in ("card", "iban", "ssn"):
            return self.text
        return self.text + re.sub("[ -]", "", found)[-self.keep_last :]


def redact_text(text: str, finders: Sequence[Finder], masks: Masks) -> tuple[str, int]:
    """A text with everything found masked, and how much that was."""
    spans = find_all(text, finders)
    return replaced(
        text, [(span.start, span.end, masks.of(text[span.start : span.end], span.kind)) for span in spans]
    ), len(spans)


def replaced(text: str, changes: Sequence[tuple[int, int, str]]) -> str:
    """A text with places replaced; they are in order and do not overlap."""
    parts: list[str] = []
    at = 0
    for start, end, new in changes:
        parts += (text[at:start], new)
        at = end
    parts.append(text[at:])
    return "".join(parts)
