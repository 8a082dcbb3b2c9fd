"""Runs in the guest when all is imported: how many bytes of Python objects each module has brought. Staged by `build` as `lateen_sizes`.

An object counts for the first module, in the order of import, from whose namespace it can be reached; functions and classes for the one
that defines them. What is counted is what the objects themselves take (sys.getsizeof), not the allocator's overhead, nor the interpreter.
"""

import gc
import json
import sys
from types import CodeType, FunctionType, ModuleType

MARK = b"lateen-filter-sizes:"
"""Read by filters.toolchain.image."""


def measure() -> bytes:
    """JSON of bytes by module, behind a mark; the result must be kept referenced."""
    loaded: dict[str, object] = {**sys.modules}
    modules = {
        name: vars(module) for name, module in loaded.items() if isinstance(module, ModuleType) and name != __name__
    }
    namespaces = {id(namespace): name for name, namespace in modules.items()}
    seen: set[int] = set()
    sizes = {name: size for name in modules if (size := _count(name, modules, namespaces, seen))}
    text = json.dumps(sizes).encode()
    return MARK + f"{len(text):08x}".encode() + text


def _count(name: str, modules: dict[str, dict[str, object]], namespaces: dict[int, str], seen: set[int]) -> int:
    total = 0
    waiting: list[object] = [modules[name]]
    while waiting:
        found = waiting.pop()
        if id(found) in seen or isinstance(found, ModuleType) or namespaces.get(id(found), name) != name:
            continue
        if isinstance(found, FunctionType | type):
            owner = found.__module__
            if owner != name and owner in modules:
                continue
        seen.add(id(found))
        total += sys.getsizeof(found)
        if isinstance(found, CodeType):
            waiting += (found.co_consts, found.co_names, found.co_name, found.co_qualname, found.co_filename)
            waiting += (found.co_linetable, found.co_exceptiontable)
        else:
            waiting += gc.get_referents(found)
    return total
