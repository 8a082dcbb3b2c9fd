"""`--jwks-override URL=URL`: ask another address for the keys of the first URL."""


def parse_override(text: str) -> tuple[str, str]:
    """Split at the "=" in front of the second URL: the first may hold one in its query. ValueError when it is no pair."""
    for scheme in ("http://", "https://"):
        first, separator, rest = text.partition(f"={scheme}")
        if separator and first.startswith(("http://", "https://")):
            return first, scheme + rest
    raise ValueError(f'jwks override "{text}" must be URL=URL')
