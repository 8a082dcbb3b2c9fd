"""What a message says of its body."""

LATIN = ("iso-8859-", "windows-125")
CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "ascii", "latin1", "latin-1", ""})


def content_type(header: str) -> tuple[str, str]:
    """Type and character set, in lower case."""
    kind, _, parameters = header.lower().partition(";")
    return kind.strip(), parameter(parameters, "charset")


def parameter(parameters: str, name: str) -> str:
    """A parameter of content-type; empty if there is none."""
    found = ""
    for each in parameters.split(";"):
        key, _, value = each.strip().partition("=")
        if key.strip().lower() == name:
            found = value.strip().strip('"')
    return found


def readable(encoding: str, charset: str) -> bool:
    """Whether a body's bytes are letters as they stand: not compressed, and ASCII looks as it does."""
    return encoding.strip().lower() in ("", "identity") and (charset in CHARSETS or charset.startswith(LATIN))
