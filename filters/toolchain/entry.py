"""The module componentize-py starts with: it imports the filter and all it may need later, then leaves the manifest."""

WORLD = """package lateen:filter@0.1.0;
world filter { export unused: func(); }
"""


def entry_source(module: str, lazy: tuple[str, ...]) -> str:
    """Source of the entry; `lazy` are modules that the filter's functions import."""
    lines = [
        "import wit_world",
        "import filters.sdk.dispatch",
        "import filters.sdk.snapshot",
        *(f"try:\n    import {name}\nexcept ImportError:\n    pass" for name in lazy),
        f"import {module}",
        "",
        "class WitWorld(wit_world.WitWorld):",
        "    def unused(self) -> None:",
        "        pass",
        "",
        "_manifest = filters.sdk.snapshot.freeze()",
        "",
    ]
    return "\n".join(lines)
