"""`lateen filter new`, `test` and `run` as one types them."""

import http.client
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from filters.testing.building import module_of
from filters.toolchain.binary import section
from filters.toolchain.core_module import MAGIC
from lateen.cli import filterbuild
from lateen.cli.exits import CommandError, Exit
from tests.filters.kit.cases import Plain

LATEEN = [sys.executable, "-P", "-m", "lateen.cli.main", "filter"]
SECONDS = 120.0
SHORT = "short.wasm: cut short: it ends at byte 109, in the middle of a section (code)"
BUILDS = [pytest.mark.e2e, pytest.mark.xdist_group("filters"), pytest.mark.timeout(600)]


def lateen(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*LATEEN, *arguments], capture_output=True, text=True, check=False, timeout=SECONDS, cwd=cwd)


def test_new_makes_a_project_whose_tests_pass(tmp_path: Path) -> None:
    made = lateen("new", "my-gate", cwd=tmp_path)
    assert (made.returncode, made.stderr.splitlines()[-1]) == (0, "next: lateen filter test my-gate")
    tested = lateen("test", "my-gate", "-q", "-p", "no:cacheprovider", cwd=tmp_path)
    assert (tested.returncode, "3 passed" in tested.stdout) == (0, True), tested.stdout + tested.stderr
    again = lateen("new", "my-gate", cwd=tmp_path)
    assert (again.returncode, "is not empty" in again.stderr) == (2, True)


def test_a_test_that_fails_is_exit_code_1(tmp_path: Path) -> None:
    lateen("new", "gate", cwd=tmp_path)
    source = tmp_path / "gate" / "gate.py"
    source.write_text(source.read_text().replace("503", "500"))
    failed = lateen("test", "gate", "-p", "no:cacheprovider", cwd=tmp_path)
    assert (failed.returncode, "assert (500" in failed.stdout) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["new", "Upper"], "is no name for a filter"),
        (["new", "a--b"], "is no name for a filter"),
        (["new", "class"], "class is a word of Python's own"),
        (["new", "json"], "json is the name of another module"),
        (["new", "tests"], "tests is the name of another module"),
        (["test", "nowhere"], "nowhere is no directory"),
        (["test", ".", "--module", "x.wasm"], "goes with --envoy"),
        (["test", ".", "--envoy", "--module", "x.wasm"], "x.wasm is no file"),
        (["run", "x.wasm", "--upstream", "nobody"], "is not HOST:PORT"),
        (["run", "x.wasm", "--cluster", "users"], "is not NAME=HOST:PORT"),
        (["run", "x.wasm", "--config", "["], "--config: "),
        (["run", "x.wasm", "--config", "[]"], "expected a JSON object"),
        (["build", "x.py", "-o", "no/such/x.wasm"], "there is no directory"),
        (["build", "x.wasm"], "is built already"),
        (["build", "x.py", "-o", "x.py"], "--output: x.py does not end in .wasm\nhelp: write x.wasm"),
        (["build", "x.py", "-o", "."], "--output: . is a directory"),
        (["inspect", "x.wasm", "-o", "wide"], "there is only table, json and yaml"),
        (["inspect", "x.wasm", "-o", "yml"], "'yml' is not one of table, wide, json, yaml, name, did you mean yaml?"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    result = lateen(*arguments, cwd=tmp_path)
    assert (result.returncode, said in result.stderr) == (2, True), result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "x.wasm", "--port", "0"], "x.wasm: no such file or directory"),
        (["inspect", "x.wasm"], "x.wasm: no such file or directory"),
        (["build", "library:nothing"], "the library has no filter nothing; it has: ab-testing, "),
        (["build", "nowhere"], "nowhere: no such file or directory"),
        (["build", sys.executable], "a filter is a Python file (NAME.py) or a directory with one"),
        (["run", "bytes.py", "--port", "0"], "this is no Python source in UTF-8"),
        (["build", "my-gate.py"], "my-gate.py: Python cannot import a file of this name: call it my_gate.py"),
        (["build", "class.py"], "call it my_class.py"),
        (["build", "1st.py"], "call it _1st.py"),
        (["build", "json.py"], "json.py: json is the name of another module: call it my_json.py"),
        (["build", "broken.py"], "broken.py:2:7: invalid syntax\n    def (:\n        ^\n"),
        (["build", __file__], "there is no filter, nothing here imports lateen_filter"),
        (["build", "classless.py"], "classless.py: there is no filter, no class here is derived from HttpFilter"),
        (["run", "empty.wasm", "--port", "0"], "there is no filter in this module"),
        (["run", "short.wasm", "--port", "0"], SHORT),
        (["inspect", "short.wasm"], SHORT),
        (["publish", "short.wasm", "out"], SHORT),
    ],
    ids=" ".join,
)
def test_what_cannot_be_built_or_read_is_exit_code_3(tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "classless.py").write_text("import lateen_filter\n")
    (tmp_path / "bytes.py").write_bytes(b"\xff")
    (tmp_path / "broken.py").write_text("if 1:\n  def (:\n")
    for name in ("my-gate", "class", "1st", "json"):
        (tmp_path / f"{name}.py").write_text("import lateen_filter\n")
    (tmp_path / "empty.wasm").write_bytes(MAGIC)
    (tmp_path / "short.wasm").write_bytes(MAGIC + section(10, bytes(100))[:-1])
    result = lateen(*arguments, cwd=tmp_path)
    assert (result.returncode, said in result.stderr) == (3, True), result.stderr


def test_a_handler_whose_name_is_not_quite_right_is_told(tmp_path: Path) -> None:
    path = tmp_path / "gate.py"
    path.write_text(
        "class Gate(HttpFilter):\n"
        "    def on_requests(self, request): ...\n"
        "    def on_response_headers(self, request): ...\n"
        "    def on_duty(self): ...\n"
        "    def on_log(self, request, response): ...\n"
    )
    assert list(filterbuild.misspelt(path)) == [
        f"{path}:2: nothing calls on_requests, did you mean on_request?",
        f"{path}:3: nothing calls on_response_headers, did you mean on_response?",
    ]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_is_taken_is_told_before_building(host: str) -> None:
    with socket.socket() as taken:
        taken.bind((host, 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = lateen("run", "library:waf", "--port", str(port))
    assert result.returncode == 2
    assert (
        result.stderr == f"error: port {port} is taken\nhelp: give another one with --port, or 0 for any that is free\n"
    )


@pytest.mark.parametrize("length", range(1, 12))
def test_a_module_that_is_cut_anywhere_is_no_module(tmp_path: Path, length: int) -> None:
    path = tmp_path / "gate.wasm"
    path.write_bytes(MAGIC + section(0, bytes([200, 1]) + bytes(200))[:length])
    with pytest.raises(CommandError, match=r"in the middle of a section \(custom\)") as caught:
        filterbuild.read_module(path)
    assert caught.value.code is Exit.INVALID


@pytest.fixture
def module(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The module of the kit's suite, a copy."""
    cache = request.config.cache
    assert cache is not None
    return Path(shutil.copyfile(module_of(Plain, None, cache.mkdir("lateen-filter")), tmp_path / "kit.wasm"))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], Path]]]:
    """A function that starts `lateen filter run`; the process and its log."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*arguments: str) -> tuple[subprocess.Popen[bytes], Path]:
        path = tmp_path / f"run-{len(started)}.log"
        with path.open("wb") as log:
            started.append(subprocess.Popen([*LATEEN, "run", *arguments], stdout=log, stderr=log, cwd=tmp_path))
        return started[-1], path

    yield run
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(SECONDS)


def until(log: Path, text: str, count: int = 1) -> str:
    end = time.monotonic() + SECONDS
    while (said := log.read_text()).count(text) < count:
        assert time.monotonic() < end, said
        time.sleep(0.1)
    return said


def get(port: int, path: str) -> tuple[int, str, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.getheader("x-seen")
    finally:
        connection.close()


class TestRun:
    pytestmark = BUILDS

    def test_a_saved_module_takes_the_place_of_the_old_one(
        self, module: Path, start: Callable[..., tuple[subprocess.Popen[bytes], Path]]
    ) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = int(taken.getsockname()[1])
        process, log = start("kit.wasm", "--name", "plain", "--port", str(port), "--config", '{"word": "one"}')
        until(log, f"envoy with plain on http://127.0.0.1:{port}")
        assert "[info] configured with one" in log.read_text()
        assert get(port, "/x") == (200, "GET /x\n", "/x 200")
        good = module.read_bytes()
        module.write_bytes(b"no module")
        until(log, "kit.wasm: not a WebAssembly module\nthe filter of before goes on")
        assert get(port, "/x")[0] == 200
        module.write_bytes(good)
        until(log, "the new filter answers now")
        assert get(port, "/reply")[:2] == (418, "short\n")
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
        with socket.socket() as client:  # Envoy is gone too
            assert client.connect_ex(("127.0.0.1", port)) != 0

    def test_which_filter_has_to_be_said(self, module: Path) -> None:
        result = lateen("run", str(module), "--port", "0")
        assert (result.returncode, "it has: awaiting, differences, plain" in result.stderr) == (2, True), result.stderr
