"""Ctrl-C before a command has begun."""

import signal
import subprocess
import sys

import pytest

# The interrupt comes while lateen.cli.main is looked for.
SCRIPT = """
import os, signal, sys
class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == "lateen.cli.main":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupts())
from lateen.cli.entry import main
main()
"""


def test_an_interrupt_while_modules_are_imported_is_quiet() -> None:
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, timeout=120)
    assert (result.returncode, result.stderr, result.stdout) == (130, "", "")


@pytest.mark.parametrize("handler", ["SIG_IGN", "SIG_DFL"])
def test_a_signal_that_somebody_has_arranged_stays_so(handler: str) -> None:
    script = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.{handler})
sys.argv = ["lateen", "version"]
from lateen.cli.entry import main
try:
    main()
finally:
    print(signal.getsignal(signal.SIGINT) is signal.{handler})
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert result.stdout.splitlines()[-1] == "True", result.stderr
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
