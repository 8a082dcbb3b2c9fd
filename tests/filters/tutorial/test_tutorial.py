"""docs/filters-tutorial.md, executed from top to bottom: files are written, commands print what stands there."""

import doctest
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("filters"), pytest.mark.timeout(900)]
PAGE = Path(__file__).parents[3] / "docs" / "filters-tutorial.md"
BLOCK = re.compile(r"^```(?P<kind>console|python)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^\$ (?P<command>[^\n]+)\n(?P<output>(?:(?!\$ )[^\n]*\n)*)", re.MULTILINE)
RUNS_ON = "lateen filter run maintenance --port 8080"
SECONDS = 300.0


class Step(NamedTuple):
    """A file to write, or a command with what it prints."""

    command: str
    text: str
    path: str = ""


def steps(page: str) -> Iterator[Step]:
    for block in BLOCK.finditer(page):
        if block["kind"] == "python":
            first, _, rest = block["text"].partition("\n")
            yield Step("", rest, first.removeprefix("# "))
        else:
            for found in COMMAND.finditer(block["text"]):
                yield Step(found["command"], found["output"])


STEPS = list(steps(PAGE.read_text(encoding="utf-8")))


def test_the_page_has_steps() -> None:
    assert (sum(bool(step.path) for step in STEPS), sum(bool(step.command) for step in STEPS)) == (2, 15)


def same(expected: str, got: str) -> bool:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(expected, got.replace("\r\n", "\n"), flags)


def test_the_tutorial(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    running: list[subprocess.Popen[bytes]] = []
    try:
        for step in STEPS:
            if step.path:
                (tmp_path / step.path).write_text(step.text)
                continue
            command = step.command.replace("8080", port)
            if step.command == RUNS_ON:
                said = tmp_path / "run.log"
                with said.open("wb") as log:
                    running.append(
                        subprocess.Popen(command.split(), cwd=tmp_path, env=environment, stdout=log, stderr=log)
                    )
                end = time.monotonic() + SECONDS
                while not same(step.text.replace("8080", port), said.read_text()) and time.monotonic() < end:
                    assert running[0].poll() is None, said.read_text()
                    time.sleep(0.1)
                assert same(step.text.replace("8080", port), said.read_text()), said.read_text()
                continue
            result = subprocess.run(
                ["bash", "-c", command],
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
                timeout=SECONDS,
            )
            assert same(step.text, result.stdout), f"$ {command}\n{result.stdout}"
    finally:
        for process in running:
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
