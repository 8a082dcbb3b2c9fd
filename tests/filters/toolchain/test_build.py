"""What a failed build tells."""

from filters.toolchain.build import _explain

OUTPUT = """tool: starting
Traceback (most recent call last):
  File "/0/lateen_entry.py", line 50, in <module>
    import gate
  File "<frozen importlib._bootstrap>", line 1371, in _find_and_load
  File "/0/gate.py", line 3, in <module>
    import numpy
ModuleNotFoundError: No module named 'numpy'

Stack backtrace:
   0: main
             at ./main.c:5:21
"""


def test_only_the_traceback_of_the_filter_is_shown() -> None:
    lines = _explain(OUTPUT, ()).splitlines()
    assert lines[0] == "the filter cannot be imported"
    assert lines[-1] == "ModuleNotFoundError: No module named 'numpy'"
    assert not any("backtrace" in line or "importlib" in line for line in lines)


def test_output_without_a_traceback_is_shown_from_its_start() -> None:
    assert _explain("cannot read the file\n", ()).splitlines() == [
        "the filter cannot be imported",
        "cannot read the file",
    ]
