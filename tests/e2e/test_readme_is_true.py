"""Every console block of the README, run against the running example, prints what the README says."""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.running import ROOT, RunningMesh

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

BLOCK = re.compile(r"```console\n\$ (?P<command>[^\n]+)\n(?P<output>.*?)```", re.DOTALL)
BLOCKS = [(m["command"], m["output"]) for m in BLOCK.finditer((ROOT / "README.md").read_text(encoding="utf-8"))]


def test_there_are_blocks() -> None:
    assert sum("curl" in command for command, _ in BLOCKS) == 5


@pytest.mark.usefixtures("fresh_window")
@pytest.mark.parametrize(("command", "expected"), BLOCKS, ids=[command[:40] for command, _ in BLOCKS])
def test_a_block_prints_what_the_readme_says(mesh: RunningMesh, command: str, expected: str) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "LATEEN_GATEWAY_URL": mesh.gateway,
        "LATEEN_PROXY_ORDERS": mesh.proxy("orders"),
        "LATEEN_CONTROL_PLANE": mesh.info.control_plane,
    }
    result = subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.OutputChecker().check_output(expected, result.stdout, flags), result.stdout + result.stderr
