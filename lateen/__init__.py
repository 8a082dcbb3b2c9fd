"""Lateen: Istio's API on stock Envoy.

What processes do is in the subpackages; `lateen.clock` and `lateen.envoy_binary` are leaves that anyone may import.
"""

__version__: str


def __getattr__(name: str) -> str:
    """`__version__` on demand: `importlib.metadata` takes longer to import than all of a small command."""
    if name != "__version__":
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    from importlib.metadata import version

    return version("lateen")
