"""URLs as Go reads them (`url.ParseRequestURI`), because Istio's own validation does."""

import re

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*):")
_BAD_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2})")
_USERINFO = re.compile(r"(?:[A-Za-z0-9._:~!$&'()*+,;=%@-])*")
_HOST = re.compile(
    r"(?:\[[0-9a-fA-F:.]+(?:%25[^\]]*)?\]|(?:[A-Za-z0-9._~!$&'()*+,;=:<>\"-]|[^\x00-\x7f])*?)(?::[0-9]*)?"
)
_BAD_PORT = re.compile(r":[^:\]]*[^0-9:\]][^:\]]*$")


def scheme_of(text: str) -> str | None:
    """The scheme in lower case, "" for an absolute path, None for what is not a URL."""
    if not text or any(c < " " or c == "\x7f" for c in text) or text[0] == ":":
        return None
    found = _SCHEME.match(text)
    scheme = found.group(1).lower() if found else ""
    rest = text[found.end() :] if found else text
    rest = rest.partition("?")[0]
    if not rest.startswith("/"):
        return scheme or None  # opaque, such as mailto:someone
    if rest.startswith("//") and (scheme or not rest.startswith("///")):
        authority, slash, rest = rest[2:].partition("/")
        rest = slash + rest
        userinfo, at, host = authority.rpartition("@")
        if at and (not _USERINFO.fullmatch(userinfo) or _BAD_ESCAPE.search(userinfo)):
            return None
        if not _HOST.fullmatch(host) or _BAD_PORT.search(host):
            return None
    return None if _BAD_ESCAPE.search(rest) else scheme
