"""The tests that policies are made of, as fragments of Python: strings, path templates, addresses.

A fragment is source text over the variable `r` (a CheckInput). Text that comes from a user never enters it: every value is a named
constant, and the compiled code sees nothing but `r` and those constants.
"""

import re
from collections.abc import Sequence
from typing import Final

from lateen.policy.errors import PolicyError
from lateen.policy.request import parse_address

# What Envoy's uri_template lets an operator match (its literals of RFC 3986).
_TEMPLATE_LITERAL: Final = r"a-zA-Z0-9\-._~%!$&'()*+,;:@="
_LITERAL: Final = re.compile(f"[{_TEMPLATE_LITERAL.replace('*', '')}]+")
_BRACE: Final = re.compile("[{}]")
_OPERATORS: Final = frozenset({"{*}", "{**}"})
_TEMPLATE_OPERATOR: Final = re.compile(r"\{\*{1,2}\}")


class Constants:
    """The values that compiled code refers to, by generated names."""

    def __init__(self) -> None:
        """Start empty."""
        self.values: dict[str, object] = {"__builtins__": {}}
        self._locals = 0

    def add(self, value: object) -> str:
        """Keep a value; returns its name."""
        name = f"k{len(self.values)}"
        self.values[name] = value
        return name

    def local(self) -> str:
        """A fresh name for a local variable of the compiled code."""
        self._locals += 1
        return f"v{self._locals}"


def any_of(parts: Sequence[str]) -> str:
    """The disjunction of fragments."""
    return parts[0] if len(parts) == 1 else f"({' or '.join(parts)})" if parts else "False"


def all_of(parts: Sequence[str]) -> str:
    """The conjunction of fragments."""
    return parts[0] if len(parts) == 1 else f"({' and '.join(parts)})" if parts else "True"


def string_code(
    variable: str, values: Sequence[str], constants: Constants, *, present: str = "", prefix: str = ""
) -> str:
    """Whether a string variable matches any of Istio's patterns: exact, `abc*`, `*abc`, `*` (not empty).

    `present` replaces the test for `*`; `prefix` stands in front of every value (the scheme of identities).
    """
    exact = frozenset(prefix + v for v in values if "*" not in (v[:1], v[-1:]))
    suffixes = tuple(v[1:] for v in values if v[:1] == "*" and v != "*")
    prefixes = tuple(prefix + v[:-1] for v in values if v[-1:] == "*" and v[:1] != "*")
    parts = []
    if "*" in values:
        parts.append(present or f"{variable} != ''")
    if len(exact) == 1:
        parts.append(f"{variable} == {constants.add(next(iter(exact)))}")
    elif exact:
        parts.append(f"{variable} in {constants.add(exact)}")
    if prefixes:
        parts.append(f"{variable}.startswith({constants.add(prefixes)})")
    if suffixes and prefix:
        name = constants.add(prefix)
        parts.append(
            f"({variable}.startswith({name}) and {variable}[{len(prefix)}:].endswith({constants.add(suffixes)}))"
        )
    elif suffixes:
        parts.append(f"{variable}.endswith({constants.add(suffixes)})")
    return any_of(parts)


class StringTest:
    """Whether a string matches any of Istio's patterns, for values that are looked up first (claims, metadata)."""

    __slots__ = ("_exact", "_prefixes", "_present", "_suffixes")

    def __init__(self, values: Sequence[str]) -> None:
        """Sort the patterns by their kind."""
        self._present = "*" in values
        self._exact = frozenset(v for v in values if "*" not in (v[:1], v[-1:]))
        self._suffixes = tuple(v[1:] for v in values if v[:1] == "*" and v != "*")
        self._prefixes = tuple(v[:-1] for v in values if v[-1:] == "*" and v[:1] != "*")

    def __call__(self, text: str) -> bool:
        """Whether one pattern matches."""
        return (
            text in self._exact
            or (self._present and text != "")
            or text.startswith(self._prefixes)
            or text.endswith(self._suffixes)
        )


def check_path(path: str) -> None:
    """Refuse what Istio refuses: an operator that is not a whole segment, one behind `{**}`, other braces, and what belongs in no path."""
    segments = path.strip("/").split("/")
    if any(segment not in _OPERATORS and _BRACE.search(segment) for segment in segments):
        raise PolicyError(f'"{path}" has braces that are no {{*}} or {{**}} between slashes')
    if not is_template(path):
        return
    if "{**}" in segments and not _OPERATORS.isdisjoint(segments[segments.index("{**}") + 1 :]):
        raise PolicyError(f'"{path}": {{**}} must be the last operator')
    if any(segment not in _OPERATORS and _LITERAL.fullmatch(segment) is None for segment in segments):
        raise PolicyError(
            f'"{path}": a template has no empty segments, no further wildcards and only characters of a path'
        )


def is_template(path: str) -> bool:
    """Whether a path of a policy uses `{*}` or `{**}`."""
    return "{*}" in path or "{**}" in path


def template_regex(template: str) -> str:
    """A path template as a regular expression for a full match: `{*}` is one segment, `{**}` any number of them."""
    parts = []
    last = 0
    for operator in _TEMPLATE_OPERATOR.finditer(template):
        parts.append(re.escape(template[last : operator.start()]))
        parts.append(f"[{_TEMPLATE_LITERAL}]+" if operator.group() == "{*}" else f"[{_TEMPLATE_LITERAL}/]*")
        last = operator.end()
    parts.append(re.escape(template[last:]))
    return "".join(parts)


def path_code(paths: Sequence[str], constants: Constants) -> str:
    """Whether `r.path` matches any of the paths and templates."""
    for path in paths:
        check_path(path)
    plain = [p for p in paths if not is_template(p)]
    templates = [template_regex(p) for p in paths if is_template(p)]
    parts = [string_code("r.path", plain, constants)] if plain else []
    if templates:
        matcher = constants.add(re.compile("|".join(f"(?:{t})" for t in templates)).fullmatch)
        parts.append(f"{matcher}(r.path) is not None")
    return any_of(parts)


class AddressSet:
    """Addresses and CIDR ranges, looked up by prefix length: the cost does not grow with their number."""

    __slots__ = ("_by_shift",)

    def __init__(self, blocks: Sequence[str]) -> None:
        """Parse the blocks; PolicyError names the one that is wrong."""
        by_shift: dict[tuple[int, int], set[int]] = {}
        for block in blocks:
            bits, number, length = _parse_block(block)
            shift = bits - length
            by_shift.setdefault((bits, shift), set()).add(number >> shift)
        self._by_shift = tuple((bits, shift, frozenset(numbers)) for (bits, shift), numbers in sorted(by_shift.items()))

    def __call__(self, text: str) -> bool:
        """Whether the address lies in one of the blocks; what is no address lies in none."""
        address = parse_address(text)
        if address is None:
            return False
        bits, number = address
        return any(number >> shift in numbers for family, shift, numbers in self._by_shift if family == bits)


def _parse_block(block: str) -> tuple[int, int, int]:
    text, slash, length_text = block.partition("/")
    address = parse_address(text)
    if address is None or (slash and not (length_text.isascii() and length_text.isdigit())):
        raise PolicyError(f'"{block}" is neither an IP address nor a CIDR range')
    bits, number = address
    length = int(length_text) if slash else bits
    if slash and bits == 32 and ":" in text:  # noqa: PLR2004 - a mapped IPv4 range: its length counts the 96 bits in front
        length -= 96
    if not 0 <= length <= bits:
        raise PolicyError(f'"{block}" has a prefix length out of range')
    return bits, number, length
