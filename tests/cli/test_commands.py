"""Commands as a shell sees them: exit code, stdout for data, stderr for talk."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from lateen import __version__
from lateen.cli.main import main

ROUTE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: shop}
spec:
  hosts: [%s]
  http: [{route: [{destination: {host: reviews.shop.svc.cluster.local}}]}]
"""
SERVICE = """
---
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {selector: {app: reviews}, ports: [{name: http, port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: reviews, namespace: shop}
spec:
  selector: {matchLabels: {app: reviews}}
  template:
    metadata: {labels: {app: reviews}}
    spec: {containers: [{name: reviews, image: reviews, ports: [{containerPort: 80}]}]}
"""


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """`lateen ARGUMENTS` in this process, on a host where no mesh runs."""
    elsewhere = tempfile.mkdtemp(prefix="cli")  # short: a long TMPDIR is passed over, for the sake of unix sockets
    monkeypatch.setenv("TMPDIR", elsewhere)
    monkeypatch.delenv("LATEEN_CONTROL_PLANE", raising=False)

    def call(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["lateen", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        code = end.value.code
        return Result(code if isinstance(code, int) else 0, captured.out, captured.err)

    yield call
    shutil.rmtree(elsewhere)


@pytest.fixture
def yaml(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        path = tmp_path / "shop.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_analyze_of_what_is_fine_is_0(run: Run, yaml: Callable[[str], str]) -> None:
    result = run("analyze", yaml(ROUTE % "reviews" + SERVICE))
    assert (result.code, result.out) == (0, "")
    assert "no findings" in result.err


def test_analyze_of_a_dangling_reference_is_1(run: Run, yaml: Callable[[str], str]) -> None:
    result = run("analyze", "-o", "json", yaml(ROUTE % "reviews"))
    assert result.code == 1
    (found,) = [d for d in json.loads(result.out)["diagnostics"] if d["severity"] == "error"]
    assert (found["code"], found["line"], found["invalid"]) == ("IST0101", 7, False)
    assert found["path"] == "spec.http[0].route[0].destination.host"


def test_analyze_of_what_is_invalid_in_itself_is_3(run: Run, yaml: Callable[[str], str]) -> None:
    result = run("analyze", yaml((ROUTE % "reviews").replace("hosts:", "host:")))
    assert result.code == 3
    assert 'unknown field "host"' in result.err
    assert 'did you mean "hosts"?' in result.err
    assert ":6:3" in result.err


def test_invalid_weighs_more_than_findings(run: Run, yaml: Callable[[str], str]) -> None:
    both = ROUTE % "reviews" + "---" + (ROUTE % "reviews").replace("hosts:", "host:").replace("name: rev", "name: x")
    assert run("analyze", yaml(both)).code == 3


def test_the_threshold_decides_what_counts(run: Run, yaml: Callable[[str], str]) -> None:
    path = yaml(ROUTE % "reviews" + SERVICE.replace("app: reviews}, ports", "app: nobody}, ports"))
    assert run("analyze", path).code == 0
    assert run("analyze", "--failure-threshold", "info", path).code == 1
    assert run("analyze", "--failure-threshold", "loud", path).code == 2


def test_findings_can_be_suppressed_but_not_what_is_invalid(run: Run, yaml: Callable[[str], str]) -> None:
    path = yaml(ROUTE % "reviews")
    assert run("analyze", "-S", "IST0101", path).code == 0
    assert run("analyze", "-S", "IST0101=VirtualService/shop/reviews", path).code == 0
    assert run("analyze", "-S", "IST0101=VirtualService/shop/other", path).code == 1
    assert run("analyze", "-S", "LTN0104", yaml((ROUTE % "reviews").replace("hosts:", "host:"))).code == 3


def test_what_is_not_there_is_a_usage_error(run: Run, tmp_path: Path) -> None:
    assert run("analyze", str(tmp_path / "nothing")).code == 2
    assert run("up", str(tmp_path / "nothing")).code == 2
    assert run("gett").code == 2
    unknown = run("get", "virtualservce")
    assert unknown.code == 2
    assert "did you mean VirtualService?" in unknown.err


@pytest.mark.parametrize("arguments", [["get", "vs"], ["proxy-status"], ["logs", "x"], ["demo-token"], ["analyze"]])
def test_without_a_mesh_it_cannot_be_reached(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.code == 4
    assert "lateen up DIR" in result.err


def test_a_control_plane_that_does_not_answer_is_named(run: Run, tmp_path: Path) -> None:
    result = run("get", "vs", "--control-plane", f"unix://{tmp_path}/gone.sock")
    assert result.code == 4
    assert "gone.sock" in result.err
    assert run("get", "vs", "--control-plane", "ftp://x").code == 2


def test_version(run: Run) -> None:
    assert run("version", "-o", "name").out == f"{__version__}\n"
    assert json.loads(run("version", "-o", "json").out)["envoy"].startswith("1.40.")


def test_help_needs_neither_pydantic_nor_grpc() -> None:
    """What makes `--help` fast: the heavy imports happen in the commands that need them."""
    code = "import sys, lateen.cli.main; print([m for m in ('pydantic', 'grpc', 'httpx', 'rich', 'yaml') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "[]\n"


def test_every_command_has_help_and_says_its_exit_codes(run: Run) -> None:
    listed = run("--help")
    assert listed.code == 0
    assert "Exit codes: 0 ok" in " ".join(listed.out.split())
    for command in ("up", "apply", "get", "delete", "analyze", "proxy-status", "logs", "demo-token", "version"):
        assert command in listed.out
        assert run(command, "--help").code == 0


def test_servers_keep_their_own_help() -> None:
    command = [sys.executable, "-m", "lateen.cli.main", "ratelimit-service", "--help"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "--redis-url" in printed


def test_a_file_system_that_refuses_is_no_bug_of_ours(run: Run) -> None:
    result = run("filter", "new", "/proc/nowhere")
    assert (result.code, result.err) == (2, "error: No such file or directory: /proc/nowhere\n")


def test_apply_of_what_is_not_text_is_2(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "manifests"
    directory.mkdir()
    (directory / "binary.yaml").write_bytes(b"\xff\xfe")
    nowhere = ("--control-plane", f"unix://{tmp_path}/nowhere.sock")
    for source in (directory, directory / "binary.yaml"):
        result = run("apply", "-f", str(source), *nowhere)
        assert (result.code, result.out) == (2, "")
        assert "cannot read" in result.err
        assert "binary.yaml" in result.err
    with (directory / "binary.yaml").open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        result = run("apply", "-f", "-", *nowhere)
    assert result.code == 2
    assert "cannot read stdin" in result.err


def test_apply_passes_over_what_is_hidden_as_all_commands_do(run: Run, tmp_path: Path) -> None:
    manifests = tmp_path / "manifests"
    (manifests / ".git").mkdir(parents=True)
    (manifests / ".git" / "binary.yaml").write_bytes(b"\xff\xfe")
    result = run("apply", "-f", str(manifests), "--control-plane", f"unix://{tmp_path}/nowhere.sock")
    assert (result.code, f"there is no resource in {manifests}" in result.err) == (2, True), result.err


def test_a_value_that_an_option_does_not_have_is_said_in_our_words(run: Run) -> None:
    result = run("get", "vs", "-o", "jsn")
    assert result.code == 2
    assert "'jsn' is not one of table, wide, json, yaml, name, did you mean json?" in result.err
    assert "Value error" not in result.err
    assert run("analyze", "--color", "blue").code == 2


def test_logs_of_a_mesh_that_has_ended_are_pointed_at(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert "logs of the last" not in run("logs", "controlplane").err
    kept = tmp_path / "lateen" / "shop-1" / "last-logs"
    kept.mkdir(parents=True)
    result = run("logs", "controlplane")
    assert result.code == 4
    assert f"the logs of the last one: {kept}" in result.err


@pytest.mark.parametrize(("closed", "printed"), [("<&-", True), (">&-", False), ("2>&-", True), ("<&- 2>&-", True)])
def test_without_some_standard_stream(closed: str, *, printed: bool) -> None:
    script = f'"$0" -m lateen.cli.main analyze "$1" -o json {closed}; echo "code $?"'
    example = str(Path(__file__).parents[2] / "envoy-configs" / "payments")
    done = subprocess.run(
        ["sh", "-c", script, sys.executable, example], capture_output=True, text=True, check=True, timeout=60
    )
    assert "code 0" in done.stdout
    assert ('"diagnostics"' in done.stdout) == printed
    assert "Traceback" not in done.stderr
