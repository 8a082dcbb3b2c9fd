"""What the source of a filter imports, and what cannot work."""

from pathlib import Path

import pytest

from filters.toolchain.build import BuildError, _explain, find_sources
from filters.toolchain.imports import read_imports

SOURCE = """
from typing import TYPE_CHECKING
import json, os.path
from . import sibling
if TYPE_CHECKING:
    import decimal
def later():
    import hashlib
    import socket
    from concurrent.futures import ThreadPoolExecutor
"""


def test_imports_in_functions_are_found_and_types_left_out(tmp_path: Path) -> None:
    path = tmp_path / "gate.py"
    path.write_text(SOURCE)
    assert read_imports([("pkg.gate", path)]).modules == (
        "typing",
        "json",
        "os.path",
        "pkg",
        "hashlib",
        "socket",
        "concurrent.futures",
    )


def test_what_cannot_work_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "gate.py"
    path.write_text(SOURCE)
    found = read_imports([("gate", path)]).findings
    assert [(finding.module, finding.line) for finding in found] == [("socket", 9), ("concurrent.futures", 10)]
    assert (
        str(found[0])
        == f"{path}:9: import socket\n    there are no sockets in Wasm: use `await self.http.get(cluster, path)`"
    )


def test_files_are_told_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "gate.py"
    path.write_text("TEXT = open('x')\n\ndef f(self):\n    import json\n    return json.load(open('y'))\n")
    (found,) = read_imports([("gate", path)]).findings
    assert str(found).startswith(f"{path}:5: return json.load(open('y'))\n    there are no files in Wasm")
    path.write_text("def open(name):\n    return name\n\ndef f(self):\n    return open('y'), self.open('z')\n")
    assert not read_imports([("gate", path)]).findings


TRACEBACK = """Traceback (most recent call last):
  File "/0/lateen_entry.py", line 51, in <module>
    import probe
  File "/0/probe.py", line 4, in <module>
    import zoneinfo, tarfile
"""


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("ModuleNotFoundError: No module named 'syslog'", "syslog is written in C, and not part of CPython in Wasm"),
        (
            (
                '  File "/python/bz2.py", line 17, in <module>\n    from _bz2 import BZ2Compressor\n'
                "ModuleNotFoundError: No module named '_bz2'"
            ),
            "_bz2 is written in C, and not part of CPython in Wasm",
        ),
    ],
)
def test_a_c_module_that_is_missing_is_told_with_the_importing_line(rest: str, said: str) -> None:
    text = _explain(f"{TRACEBACK}{rest}\n\nCaused by:\n    something else\n", ())
    assert text.endswith(f"probe.py:4: import zoneinfo, tarfile\n    {said}")
    assert "something else" not in text


def test_other_failures_are_the_traceback_alone() -> None:
    for last in ("ModuleNotFoundError: No module named 'numpy'", "ValueError: no"):
        assert _explain(f"{TRACEBACK}{last}\n", ()).endswith(last)


def test_sources_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    for name, text in (("gate.py", "import lateen_filter"), ("rules.py", ""), ("tests/test_gate.py", "")):
        (tmp_path / name).write_text(text)
    name, files = find_sources(tmp_path)
    assert (name, sorted(files)) == ("gate", ["gate", "rules"])


def test_two_filters_in_a_directory_are_one_too_many(tmp_path: Path) -> None:
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("import lateen_filter")
    with pytest.raises(BuildError, match=r"which of these is the filter\? a, b"):
        find_sources(tmp_path)


@pytest.mark.parametrize(
    ("source", "compiles"),
    [
        ("Point = namedtuple('Point', 'x y')", False),
        ("import re\ndef f(text):\n    return re.compile(text)", False),
        ("def f(text):\n    return eval(text)", True),
        ("def f(text):\n    return ast.literal_eval(text)", True),
        ("class F:\n    async def on_request(self, request):\n        return collections.namedtuple('P', 'x')", True),
        ("f = lambda text: eval(text)", True),
    ],
)
def test_what_a_function_mentions_keeps_the_compiler(tmp_path: Path, source: str, *, compiles: bool) -> None:
    path = tmp_path / "gate.py"
    path.write_text(source)
    assert read_imports([("gate", path)]).compiles is compiles


def test_what_functions_of_the_standard_library_import_late_is_imported(tmp_path: Path) -> None:
    path = tmp_path / "gate.py"
    path.write_text("from datetime import datetime\ndef f(text):\n    return datetime.strptime(text, '%Y')")
    assert read_imports([("gate", path)]).modules == ("_strptime", "datetime")
