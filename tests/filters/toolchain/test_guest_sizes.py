"""What the modules of a program take. It runs in the guest when a filter is built; here in a Python of its own."""

import json
import subprocess
import sys
from pathlib import Path

from filters.toolchain import guest_sizes

PROGRAM = """
import sys
from types import ModuleType

def make():
    class Owned:
        def method(self):
            return 'a constant that is in no other module, of some length'

    Owned.__module__ = Owned.method.__module__ = 'second'
    first, second = ModuleType('first'), ModuleType('second')
    sys.modules |= {'first': first, 'second': second, 'none': None}
    shared = bytes(100_000)
    first.shared = [shared]
    first.borrowed = Owned
    second.shared = shared
    second.Owned = Owned
    second.own = bytes(50_000)
    second.other = first

make()
import lateen_sizes
sys.stdout.buffer.write(lateen_sizes.measure())
"""


def test_an_object_counts_for_the_first_that_has_it_and_a_class_for_its_own_module(tmp_path: Path) -> None:
    (tmp_path / "lateen_sizes.py").write_bytes(Path(guest_sizes.__file__).read_bytes())
    (tmp_path / "program.py").write_text(PROGRAM)
    said = subprocess.run([sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import program"], capture_output=True, check=True).stdout  # fmt: skip
    assert said.startswith(guest_sizes.MARK)
    text = said[len(guest_sizes.MARK) + 8 :]
    assert int(said[len(guest_sizes.MARK) :][:8], 16) == len(text)
    sizes = json.loads(text)
    assert 100_000 < sizes["first"] < 101_500
    assert 51_000 < sizes["second"] < 55_000
    assert sizes.keys().isdisjoint({"none", "lateen_sizes"})
    assert sizes["sys"] > 10_000
