"""The module componentize-py starts with: it imports the filter and all it may need later, then leaves the manifest."""

WORLD = """package lateen:filter@0.1.0;
world filter { export unused: func(); }
"""
# Times and inode numbers of the build's files would lie about in freed memory, and no two builds would be equal: imports go
# through functions that overwrite what they have freed.
QUIET_IMPORTS = """
import sys
import _frozen_importlib_external as files

sys.dont_write_bytecode = True


def scrub(blocks):
    kept = [1000 + number for number in range(blocks)]  # the smallest blocks, of 16 bytes
    for size in range(1, 480, 8):
        kept = [bytes(size) for _ in range(blocks)]
        del kept


class Stat:
    __slots__ = ("st_mode", "st_mtime", "st_size")


def quiet_stat(path, stat=files._path_stat):
    found = stat(path)
    plain = Stat()
    plain.st_mode, plain.st_size = found.st_mode, found.st_size
    plain.st_mtime = int(found.st_mtime) if found.st_mode & 0o100000 else 0
    del found
    scrub(32)
    return plain


def quiet_get_data(self, path, get_data=files.FileLoader.get_data):
    data = get_data(self, path)
    scrub(32)
    return data


scrub(4000)
files._path_stat = quiet_stat
files.FileLoader.get_data = quiet_get_data
"""


# What CPython calls for integers of thousands of digits; without decimal, which it can do without and few filters need. The limit on
# digits of text is another interpreter's default.
LARGE_INTEGERS = """
class Context:
    traps = {}

    def copy(self):
        return self


sys.modules["decimal"] = decimal = type(sys)("decimal")
sys.modules["_decimal"] = None
decimal.getcontext = Context
decimal.__getattr__ = lambda name: 0
import _pylong
del sys.modules["decimal"], sys.modules["_decimal"]
sys.set_int_max_str_digits(sys.int_info.default_max_str_digits)
"""


def entry_source(module: str, lazy: tuple[str, ...]) -> str:
    """Source of the entry; `lazy` are modules that the filter's functions import."""
    lines = [
        QUIET_IMPORTS,
        LARGE_INTEGERS,
        "import random",  # componentize-py's runtime does so later: the manifest shall know
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
        "import lateen_sizes",
        "_sizes = lateen_sizes.measure()",
        "del lateen_sizes, sys.modules['lateen_sizes']",
        "_manifest = filters.sdk.snapshot.freeze()",
        "",
    ]
    return "\n".join(lines)
