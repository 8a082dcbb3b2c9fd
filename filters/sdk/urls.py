"""Queries and cookies. Small and forgiving: these come from clients."""


def unquote(text: str) -> str:
    """Percent-decoding with `+` as a space; what is no valid escape stays as it is."""
    text = text.replace("+", " ")
    if "%" not in text:
        return text
    first, *parts = text.split("%")
    out = bytearray(first.encode("utf-8", "surrogateescape"))
    for part in parts:
        try:
            out.append(int(part[:2], 16) if part[:2].isalnum() else -1)
        except ValueError:
            out += b"%" + part.encode("utf-8", "surrogateescape")
        else:
            out += part[2:].encode("utf-8", "surrogateescape")
    return out.decode("utf-8", "replace")


def parse_query(query: str) -> dict[str, str]:
    """`a=1&b=2` as a dict; the first of equal names wins."""
    found: dict[str, str] = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if name:
            found.setdefault(unquote(name), unquote(value))
    return found


def parse_cookies(header: str) -> dict[str, str]:
    """`a=1; b=2` as a dict; the first of equal names wins."""
    found: dict[str, str] = {}
    for part in header.split(";"):
        name, equals, value = part.strip().partition("=")
        if equals and name:
            found.setdefault(name, value.strip('"'))
    return found
