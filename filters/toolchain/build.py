"""Build a filter: stage its source with the SDK, let componentize-py snapshot CPython with both, link the result."""

import ast
import hashlib
import importlib.metadata
import importlib.util
import keyword
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import filters.sdk
from filters.toolchain import guest_sizes
from filters.toolchain.binary import MalformedModuleError
from filters.toolchain.entry import WORLD, entry_source
from filters.toolchain.imports import Finding, is_standard, read_imports
from filters.toolchain.link import Linked, link
from filters.toolchain.seeding import MOMENT
from filters.toolchain.shim import Limits

COMPONENTIZE_VERSION = "0.25.1"
_PLACE = re.compile(r'\s*File "/0/([^"]+)", line (\d+)')
_NO_MODULE = re.compile(r"ModuleNotFoundError: No module named '([^']+)'")
"""The one whose component this linker knows; see prune and graph."""
ENTRY = "lateen_entry"
TIMEOUT = 300.0
SDK = "lateen_filter"
CHECKS = "/filters/sdk/snapshot.py"


class BuildError(Exception):
    """The filter cannot be built; the message says why and, if it is the author's, where."""


class Built(NamedTuple):
    """A built module and the figures `lateen filter build` prints."""

    linked: Linked
    warnings: tuple[Finding, ...]
    component_bytes: int
    componentize_seconds: float
    link_seconds: float
    seed: int


def build(source: Path, *, seed: int | None = None, limits: Limits | None = None) -> Built:
    """Build the filter in `source`: a .py file, or a directory that is a package or holds one module."""
    check_componentize()
    name, files = find_sources(source)
    try:
        found = read_imports(files.items())
    except SyntaxError as error:
        raise BuildError(_syntax(error)) from None
    if SDK not in found.modules:
        raise BuildError(f"{source}: there is no filter, nothing here imports {SDK}")
    if not found.derives:
        raise BuildError(f"{source}: there is no filter, no class here is derived from HttpFilter")
    seed = secrets.randbits(32) if seed is None else seed
    with tempfile.TemporaryDirectory(prefix="lateen-filter-") as directory:
        stage = Path(directory)
        warnings = list(found.findings)
        lazy = _stage(stage, files, found.modules)
        told = {finding.module for finding in warnings}
        warnings += (finding for finding in _missing(found.modules, files) if finding.module not in told)
        started = time.monotonic()
        component = _componentize(stage, name, lazy, seed, tuple(warnings))
        middle = time.monotonic()
    digest = hashlib.sha256()
    for module in sorted(files):
        digest.update(module.encode() + b"\0" + files[module].read_bytes() + b"\0")
    extra = {"seed": seed, "source": digest.hexdigest(), "componentize": COMPONENTIZE_VERSION}
    linked = link(component, limits, extra, compiler=found.compiles)
    if not linked.manifest.get("filters"):
        raise BuildError(f"{source}: there is no filter, no class here is derived from HttpFilter")
    return Built(linked, tuple(warnings), len(component), middle - started, time.monotonic() - middle, seed)


def check_componentize() -> None:
    """Refuse to start without the one version of componentize-py that is known to work."""
    try:
        version = importlib.metadata.version("componentize-py")
    except importlib.metadata.PackageNotFoundError:
        raise BuildError("componentize-py is not installed: pip install 'lateen[filters]'") from None
    if version != COMPONENTIZE_VERSION:
        raise BuildError(
            f"componentize-py {version} is installed, {COMPONENTIZE_VERSION} is needed: pip install 'lateen[filters]'"
        )


def find_sources(source: Path) -> tuple[str, dict[str, Path]]:
    """The module to import, and all files of the filter by module name."""
    if source.is_file():
        _check_name(source)
        return source.stem, {source.stem: source}
    if not source.is_dir():
        raise BuildError(f"{source}: no such file or directory")
    if (source / "__init__.py").is_file():
        root, package = source.parent, source.name
    else:
        root = source / "src" if (source / "src").is_dir() else source
        package = ""
    files: dict[str, Path] = {}
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if (
            parts[0] in ("tests", "build", "dist")
            or parts[-1].startswith("test_")
            or parts[-1] == "conftest"
            or any(part.startswith(".") for part in parts)
        ):
            continue
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    if package:
        return package, files
    top = [name for name in files if "." not in name]
    starts = [name for name in top if _imports_sdk(files[name])] or top
    if len(starts) != 1:
        raise BuildError(
            f"{source}: which of these is the filter? {', '.join(sorted(starts)) or 'there is no Python file'}"
        )
    return starts[0], files


def _check_name(file: Path) -> None:
    """BuildError if a file cannot be imported under its name."""
    name = file.stem
    if file.suffix != ".py":
        raise BuildError(f"{file}: a filter is a Python file (NAME.py) or a directory with one")
    if not name.isidentifier() or keyword.iskeyword(name):
        better = re.sub(r"\W", "_", name) if not keyword.iskeyword(name) else f"my_{name}"
        better = better if better.isidentifier() else f"_{better}"
        raise BuildError(f"{file}: Python cannot import a file of this name: call it {better}.py")
    if name in sys.stdlib_module_names or name in (SDK, "filters", ENTRY):
        raise BuildError(f"{file}: {name} is the name of another module: call it my_{name}.py")


def _syntax(error: SyntaxError) -> str:
    """Place, reason, the line and a mark under the column."""
    place = f"{error.filename}:{error.lineno}:{error.offset or 1}: {error.msg}"
    text = (error.text or "").rstrip()
    mark = " " * (max(1, error.offset or 1) - 1 - (len(text) - len(text.lstrip()))) + "^"
    return f"{place}\n    {text.lstrip()}\n    {mark}" if text.strip() else place


def _imports_sdk(path: Path) -> bool:
    try:
        return SDK in read_imports([("x", path)]).modules
    except SyntaxError:
        return True


def _stage(stage: Path, files: dict[str, Path], imported: tuple[str, ...]) -> tuple[str, ...]:
    """Copy the filter and the SDK; the modules its functions import."""
    sdk = Path(str(filters.sdk.__file__)).parent
    shutil.copytree(sdk, stage / "filters" / "sdk", ignore=shutil.ignore_patterns("__pycache__"))
    (stage / "filters" / "__init__.py").write_text("")
    library = sdk.parent / "library"
    if library.is_dir():
        shutil.copytree(library, stage / "filters" / "library", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(Path(str(guest_sizes.__file__)), stage / "lateen_sizes.py")
    spec = importlib.util.find_spec(SDK)
    if spec is None or spec.origin is None:
        raise BuildError(f"{SDK} is not installed")
    shutil.copytree(Path(spec.origin).parent, stage / SDK, ignore=shutil.ignore_patterns("__pycache__", "testing"))
    for module, path in files.items():
        target = stage / Path(*module.split("."))
        target = target / "__init__.py" if path.name == "__init__.py" else target.with_suffix(".py")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return tuple(module for module in imported if module not in files and not module.startswith(SDK))


def _missing(imported: tuple[str, ...], files: dict[str, Path]) -> list[Finding]:
    """Third-party modules: pure ones would have to be beside the filter, C extensions cannot work."""
    findings = []
    for module in imported:
        top = module.partition(".")[0]
        if is_standard(module) or top in (SDK, "filters") or top in {name.partition(".")[0] for name in files}:
            continue
        file, line, text = _place(module, files)
        findings.append(
            Finding(
                file,
                line,
                module,
                f"{top} is not part of the module: put its pure-Python source beside the filter",
                text,
            )
        )
    return findings


def _place(module: str, files: dict[str, Path]) -> tuple[str, int, str]:
    """Where a module is imported: file, line, text."""
    for path in files.values():
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            if module in names:
                return str(path), node.lineno, text.splitlines()[node.lineno - 1]
    return "", 0, f"import {module}"


def _componentize(stage: Path, name: str, lazy: tuple[str, ...], seed: int, warnings: tuple[Finding, ...]) -> bytes:
    world, output = stage.with_name(stage.name + "-wit"), stage / "component.wasm"
    scratch = stage.with_name(stage.name + "-tmp")
    world.mkdir()
    scratch.mkdir()
    try:
        (world / "filter.wit").write_text(WORLD)
        (stage / f"{ENTRY}.py").write_text(entry_source(name, lazy))
        for path in (stage, *stage.rglob("*")):
            os.utime(path, (MOMENT, MOMENT))
        command = [
            sys.executable,
            "-P",  # what lies in the current directory is none of its modules
            "-m",
            "filters.toolchain.componentize",
            str(seed),
            "-q",
            "-d",
            str(world),
            "-w",
            "filter",
        ]
        command += ["componentize", "--stub-wasi", "-p", str(stage), ENTRY, "-o", str(output)]
        environment = os.environ | {"TMPDIR": str(scratch)}  # what it leaves there when it is interrupted goes too
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT, env=environment)
    except subprocess.TimeoutExpired:
        raise BuildError(
            f"building took longer than {TIMEOUT:g} s: does the module loop when it is imported?"
        ) from None
    finally:
        shutil.rmtree(world, ignore_errors=True)
        shutil.rmtree(scratch, ignore_errors=True)
    if result.returncode != 0 or not output.is_file():
        raise BuildError(_explain(result.stdout + result.stderr, warnings))
    return output.read_bytes()


def _explain(output: str, warnings: tuple[Finding, ...]) -> str:
    """The guest's last traceback; what the tools around it print after that helps nobody."""
    lines = output[max(0, output.rfind("Traceback (most recent call last)")) :].splitlines()
    end = next((place for place, line in enumerate(lines[1:], 1) if line and not line[0].isspace()), len(lines))
    last = lines[end] if end < len(lines) else ""
    if any(CHECKS in line for line in lines):  # the SDK has found it: where in the SDK is of no interest
        return f"the filter cannot be built: {last.partition(': ')[2]}"
    kept = [line for line in _own_frames(lines[: end + 1]) if "importlib._bootstrap" not in line][-30:]
    reasons = [str(finding) for finding in warnings] or _missing_in_c(kept)
    shown = [line.replace('File "/0/', 'File "') for line in kept]
    return "\n".join(["the filter cannot be imported", *shown, *(f"\n{reason}" for reason in reasons)])


def _own_frames(traceback: Sequence[str]) -> Iterator[str]:
    """Without the frames that are not the author's, of the module that imports the filter and of the SDK."""
    inside = False
    for line in traceback:
        if line.startswith("  File "):
            inside = f"/{ENTRY}.py" in line or "/filters/sdk/" in line
        elif not line.startswith("    "):
            inside = False
        if not inside:
            yield line


def _missing_in_c(traceback: Sequence[str]) -> list[str]:
    """Of a standard module that CPython has no C code for in Wasm: the filter's line that imports it, and why that fails."""
    missing = next((found[1] for line in traceback if (found := _NO_MODULE.match(line))), "")
    if not missing or not (is_standard(missing) or missing.startswith("_")):
        return []
    places = [(found[1], found[2], source) for line, source in pairwise(traceback) if (found := _PLACE.match(line))]
    own = [
        f"{file}:{number}: {source.strip()}\n    "
        for file, number, source in places
        if not file.startswith("lateen_entry")
    ]
    return [f"{own[-1] if own else ''}{missing} is written in C, and not part of CPython in Wasm"]


__all__ = ["BuildError", "Built", "MalformedModuleError", "build", "find_sources"]
