"""Ready-made filters, one file each, with the pure pieces they share.

Compiled to Wasm: they import the standard library and the SDK, and no filter imports another, so that a module can hold
any choice of them.
"""

from collections.abc import Mapping


def catalog() -> Mapping[str, str]:
    """Where each filter is: its name (pluginName) -> "module:class"."""
    return {
        name: f"filters.library.{name.replace('-', '_')}:{''.join(part.capitalize() for part in name.split('-'))}"
        for name in NAMES
    }


NAMES = (
    "ab-testing",
    "access-log",
    "api-key",
    "hmac-signature",
    "maintenance-mode",
    "pii-redaction",
    "request-id",
    "rewrite",
    "trace-context",
    "waf",
)
