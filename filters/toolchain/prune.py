"""Leave out C modules of CPython that nothing has imported: half of the code of a small filter is SQLite, decimal and the like.

A module that was not imported when the snapshot was made can never be (there are no files): its entry in PyImport_Inittab is
blanked, so that `import` still raises ModuleNotFoundError, and its object files, neighbouring symbols of libpython, are dropped
unless something that is kept calls them directly. The symbol ranges hold for the pinned componentize-py; one that is missing is
not pruned.
"""

import struct
from collections.abc import Iterable, Mapping

from filters.toolchain.code import Ref
from filters.toolchain.compiler import RANGES as COMPILER
from filters.toolchain.graph import Graph
from filters.toolchain.image import Image

# Module -> first symbol, symbol after the last; empty: up to the next module's PyInit_ function, or to the end.
RANGES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "_sqlite3": (("pysqlite_close_all_blobs", "PyInit_array"), ("sqlite3_log", "$")),
    "_socket": (("PyInit__socket", "_PyAtExit_Fini"),),
    "_symtable": (("PyInit__symtable", "getpath_abspath"),),
    "_decimal": (("PyInit__decimal", ""), ("mpd_dflt_traphandler", "parserCreate")),
    "pyexpat": (("PyInit_pyexpat", ""), ("parserCreate", "adler32_z")),
    "zlib": (("PyInit_zlib", ""), ("deflateInit2_", "sqlite3_log")),
    "_hmac": (("PyInit__hmac", ""), ("_Py_LibHacl_Hacl_HMAC_compute_md5", "mpd_dflt_traphandler")),
    "_struct": (("PyInit__struct", "calendarrule_year_to_timestamp"),),
    "_datetime": (("new_date_ex", "PyInit__codecs"),),
    **{
        module: ((f"PyInit_{module}", ""),)
        for module in [
            "array",
            "_bisect",
            "_heapq",
            "_random",
            "math",
            "binascii",
            "_md5",
            "_sha1",
            "_sha2",
            "_sha3",
            "_blake2",
            "_tracemalloc",
            "_suggestions",
            "_locale",
            "_asyncio",
            "_csv",
            "_lsprof",
            "_pickle",
            "_queue",
            "_zoneinfo",
            "cmath",
            "_statistics",
            "_elementtree",
            "_codecs_cn",
            "_codecs_hk",
            "_codecs_iso2022",
            "_codecs_jp",
            "_codecs_kr",
            "_codecs_tw",
            "_multibytecodec",
            "unicodedata",
            "select",
        ]
    },
}
RUNTIME_EXPORT = "PyInit_componentize_py_runtime"
WORD = 4
LONGEST = 2000
"""A range with more functions is not what the table means."""


def prunable_functions(graph: Graph, modules: Iterable[str], *, compiler: bool) -> frozenset[Ref]:
    """Functions of the object files of `modules`, of componentize-py's runtime, and of the parser unless `compiler`."""
    instance = next(
        (number for number, module in graph.modules.items() if "PyInit__json" in module.names.values()), None
    )
    if instance is None:
        return frozenset()
    names = graph.modules[instance].names
    first: dict[str, int] = {}
    for index in sorted(names):
        if index >= graph.modules[instance].imported_functions:
            first.setdefault(names[index], index)
    end = max(first.values()) + 1
    starts = sorted(index for name, index in first.items() if name.startswith("PyInit_"))
    found = set(_runtime_functions(graph))
    grammar = () if compiler else COMPILER
    for ranges in (*(RANGES.get(module, ()) for module in sorted(modules)), grammar):
        for begin, after in ranges:
            low = first.get(begin)
            if low is None:
                continue
            high = end if after == "$" else first.get(after, -1)
            if not after:
                high = next((index for index in starts if index > low), end)
            if low < high < low + LONGEST:
                found.update(Ref(instance, index) for index in range(low, high))
    return frozenset(found)


def _runtime_functions(graph: Graph) -> Iterable[Ref]:
    """componentize-py's Rust code: its part is over when the snapshot is taken, callbacks go to CPython directly."""
    for number, module in graph.modules.items():
        if RUNTIME_EXPORT in module.exports:
            first = module.imported_functions
            yield from (Ref(number, index) for index in range(first, first + len(module.bodies)))


def disable_modules(image: Image, slots: Mapping[str, int]) -> None:
    """Blank the names of modules in every table of (name, init function) pairs; `slots` are the init functions' table slots."""
    content = bytes(image.content)
    for module, slot in slots.items():
        title = module.encode() + b"\0"
        wanted = struct.pack("<I", slot)
        at = content.find(wanted)
        while at >= 0:
            if at % WORD == 0 and at >= WORD:
                address = int.from_bytes(content[at - WORD : at], "little")
                if address and content[address - 1 : address + len(title)] == b"\0" + title:
                    image.content[at - WORD : at] = struct.pack("<I", address + len(module))
            at = content.find(wanted, at + 1)
