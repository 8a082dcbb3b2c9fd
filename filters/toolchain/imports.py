"""What a filter imports, read from its source: all of it must be imported while the module is built, and some of it cannot work.

Inside the module there are no files, so `import` in a function finds nothing unless the build has imported it before.
"""

import ast
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

IMPOSSIBLE: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "socket",
            "socketserver",
            "selectors",
            "ssl",
            "http.client",
            "urllib.request",
            "smtplib",
            "ftplib",
            "imaplib",
            "poplib",
        ),
        "there are no sockets in Wasm: use `await self.http.get(cluster, path)`",
    ),
    **dict.fromkeys(
        ("requests", "httpx", "aiohttp", "urllib3", "grpc"),
        "there are no sockets in Wasm: use `await self.http.get(cluster, path)`",
    ),
    **dict.fromkeys(
        ("threading", "multiprocessing", "concurrent.futures", "_thread", "queue"),
        "there are no threads in Wasm: Envoy's workers run filters side by side",
    ),
    **dict.fromkeys(
        ("asyncio", "anyio", "trio"),
        "Envoy drives a filter's coroutines itself: await self.http and bodies, no event loop",
    ),
    **dict.fromkeys(("subprocess", "pty", "signal"), "there are no processes in Wasm"),
    **dict.fromkeys(
        ("sqlite3", "dbm", "shelve", "mmap", "tempfile", "shutil", "fcntl"),
        "there are no files in Wasm: use self.shared, or configuration",
    ),
    **dict.fromkeys(("bz2", "lzma", "resource"), "its C module is not part of CPython in Wasm"),
    "lateen_filter.testing": "the test kit stays out of the module: import it in tests only",
    **dict.fromkeys(
        ("numpy", "pandas", "scipy", "cryptography", "lxml", "orjson", "pydantic", "pydantic_core", "ujson"),
        "it is not pure Python: C extensions cannot be part of a module",
    ),
    **dict.fromkeys(("ctypes", "cffi", "_ctypes"), "there is no dynamic linking in Wasm"),
    **dict.fromkeys(("tkinter", "curses", "readline", "termios"), "there is no terminal in Wasm"),
}


COMPILES = frozenset(
    {"eval", "exec", "compile", "literal_eval", "namedtuple", "NamedTuple", "dataclass", "make_dataclass", "signature"}
)
"""Names that need Python's compiler when a function uses them; at module level they are done when the module is built."""
LATE_IMPORTS: Mapping[str, str] = {"strptime": "_strptime", "uuid3": "hashlib", "uuid5": "hashlib", "seed": "_sha2"}
"""Names whose functions in the standard library import something when they are called."""


NO_FILES = "there are no files in Wasm: what a filter needs comes with its configuration"


class Finding(NamedTuple):
    """An import (or call) that cannot work, with its place."""

    file: str
    line: int
    module: str
    reason: str
    source: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.source.strip()}\n    {self.reason}"


class Imports(NamedTuple):
    """What a set of source files imports."""

    modules: tuple[str, ...]
    """Absolute names, in order of appearance."""
    findings: tuple[Finding, ...]
    compiles: bool = False
    """Whether a function compiles Python at run time."""
    derives: bool = False
    """Whether a class is derived from another one, or classes of the library are imported."""


def read_imports(sources: Iterable[tuple[str, Path]]) -> Imports:
    """Every import of the sources ((module name, file) pairs), also those inside functions; TYPE_CHECKING blocks left out.

    SyntaxError with file and line of what is no Python.
    """
    modules: dict[str, None] = {}
    findings: list[Finding] = []
    compiles = derives = False
    for module, path in sources:
        try:
            text = path.read_text(encoding="utf-8")
            tree = ast.parse(text, str(path))
        except ValueError as error:  # bytes that are no text, or a NUL
            raise SyntaxError(f"this is no Python source in UTF-8: {error}", (str(path), 1, 1, "")) from None
        lines = text.splitlines()
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        modules |= dict.fromkeys(LATE_IMPORTS[name] for name in _mentioned(tree) if name in LATE_IMPORTS)
        compiles = compiles or not COMPILES.isdisjoint(_mentioned_in_functions(tree))
        derives = derives or any(isinstance(node, ast.ClassDef) and node.bases for node in ast.walk(tree))
        for node in _imports(tree):
            for name in _names(node, package):
                derives = derives or name.startswith("filters.library")
                modules.setdefault(name)
                reason = _impossible(name)
                if reason:
                    findings.append(Finding(str(path), node.lineno, name, reason, lines[node.lineno - 1]))
        findings += [Finding(str(path), line, "open", NO_FILES, lines[line - 1]) for line in _opened(tree)]
    return Imports(tuple(modules), tuple(dict.fromkeys(findings)), compiles, derives)


def _mentioned(tree: ast.AST) -> Iterable[str]:
    """Names of variables and attributes; `re.compile` is no compilation of Python."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute) and node.attr != "compile":
            yield node.attr


def _mentioned_in_functions(tree: ast.AST) -> Iterable[str]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for statement in node.body:
                yield from _mentioned(statement)
        elif isinstance(node, ast.Lambda):
            yield from _mentioned(node.body)


def _opened(tree: ast.AST) -> Iterable[int]:
    """Lines where a function opens a file by the built-in name; a function of that name of the author's own is another matter."""
    nodes = list(ast.walk(tree))
    functions = [node for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))]
    if any(isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == "open" for node in functions):
        return
    calls = (node for function in functions for node in ast.walk(function) if isinstance(node, ast.Call))
    yield from sorted({call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "open"})


def _imports(tree: ast.AST) -> Iterable[ast.Import | ast.ImportFrom]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, ast.If) and _type_checking(node.test):
            for other in node.orelse:
                yield from _imports(other)
        else:
            yield from _imports(node)


def _type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _names(node: ast.Import | ast.ImportFrom, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        parts = package.split(".")
        base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
    return [base] if base and base != "__future__" else []


def _impossible(name: str) -> str | None:
    while name:
        if name in IMPOSSIBLE:
            return IMPOSSIBLE[name]
        name = name.rpartition(".")[0]
    return None


def is_standard(name: str) -> bool:
    """Whether a module belongs to Python itself."""
    return name.partition(".")[0] in sys.stdlib_module_names
