"""`lateen up` as a process: what it starts it ends, and what it cannot start it explains."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lateen import __version__
from lateen.local.rundir import RunInfo, live_runs
from tests.e2e.client import call
from tests.e2e.running import (
    LOCAL,
    SMALL,
    RunningMesh,
    command,
    command_lines,
    environment,
    reaper_of,
    start,
    until,
    wait_for_end,
)

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]
WEB = "http://web.shop:8080/"
ELSEWHERE = f"127.98.{os.getpid() // 250 % 250}.{os.getpid() % 250 + 1}"  # an address of this process's own
DANGLING = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: away, namespace: shop}
spec: {hosts: [away.example.com], http: [{route: [{destination: {host: nowhere}}]}]}
"""
ECHO = """
import os, socket
server = socket.create_server((os.environ["HOST"], int(os.environ["PORT"])))
while True:
    connection, _ = server.accept()
    with connection:
        connection.sendall(connection.recv(100).upper())
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A directory with one workload, and a space in its name."""
    directory = tmp_path / "small mesh"
    directory.mkdir()
    (directory / "web.yaml").write_text(SMALL)
    (directory / "lateen.yaml").write_text(LOCAL)
    return directory


def _up(
    directory: Path, home: Path, *arguments: str, seconds: float = 180, cwd: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(directory, *arguments),
        cwd=cwd,
        env=environment(home),
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )


@pytest.fixture(scope="module")
def second(mesh: RunningMesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """Another mesh, beside the payments mesh: a web application, and a TCP service that answers in capitals."""
    home = tmp_path_factory.mktemp("second")
    directory = home / "second"
    directory.mkdir()
    (directory / "web.yaml").write_text(SMALL)
    echo = SMALL.replace("shop", "data").replace("web", "echo").replace("name: http", "name: tcp-echo")
    (directory / "echo.yaml").write_text(echo.replace("image: demo", "image: echo"))
    (directory / "echo.py").write_text(ECHO)
    (directory / "dangling.yaml").write_text(DANGLING)
    commands = "{demo: {command: [python3, -m, lateen.local.demo_app]}, echo: {command: [python3, '{dir}/echo.py']}}"
    (directory / "lateen.yaml").write_text(LOCAL.partition("spec:")[0] + f"spec: {{images: {commands}}}")
    running = start(directory, home)
    yield running
    processes = running.command_lines()
    assert running.stop(signal.SIGINT) == 0
    wait_for_end(processes)
    assert running.info.id not in {run.id for run in live_runs()}


def test_a_second_mesh_runs_beside_the_first(mesh: RunningMesh, second: RunningMesh) -> None:
    assert len({run.id for run in live_runs()} & {mesh.info.id, second.info.id}) == 2
    assert call("GET", WEB, proxy=second.proxy("web")).json["workload"] == "web"
    assert call("GET", f"{mesh.gateway}/v1/charge", mesh.bearer()).status == 200


def test_what_does_not_fit_together_is_said_at_the_start(second: RunningMesh) -> None:
    until(lambda: "IST0101" in second.output and "dangling.yaml:5:" in second.output)


def test_a_workload_can_take_the_place_of_another(second: RunningMesh) -> None:
    def answering() -> str:
        return str(call("GET", WEB, proxy=second.proxy("echo")).json.get("workload"))

    assert answering() == "web"
    deployment = "kind: Deployment\nmetadata: {name: web,"
    with second.edited("web.yaml", (deployment, deployment.replace("web", "other"))):
        until(lambda: answering() == "other")
    until(lambda: answering() == "web")
    until(lambda: "stopped shop/other-0" in second.output)


def test_logs_say_why_there_is_nothing_in_them(second: RunningMesh) -> None:
    def logs(container: str) -> "subprocess.CompletedProcess[str]":
        line = [sys.executable, "-m", "lateen.cli.main", "logs", "web", "-c", container]
        line += ["--control-plane", second.info.control_plane]
        return subprocess.run(line, capture_output=True, text=True, check=True, timeout=120)

    assert f"accessLogFile: /dev/stdout in {second.directory}/mesh.yaml" in logs("envoy").stderr
    app = logs("app")
    assert (app.stdout, app.stderr) == ("", "note: nothing has been written to web-0.app yet\n")


def test_another_command_or_environment_restarts_the_application_alone(second: RunningMesh) -> None:
    def version() -> str:
        answer = call("GET", WEB, proxy=second.proxy("echo"))
        return str(answer.json["version"]) if answer.status == 200 else ""

    assert version() == ""
    envoy = second.pid("envoy", "--config-path", f"/{second.replica('web-0').address.rpartition('.')[2]}.json")
    with second.edited("lateen.yaml", ("lateen.local.demo_app]}", "lateen.local.demo_app], env: {VERSION: v7}}")):
        until(lambda: version() == "v7")
        until(lambda: "restarted the application of shop/web-0" in second.output)
        assert (
            second.pid("envoy", "--config-path", f"/{second.replica('web-0').address.rpartition('.')[2]}.json") == envoy
        )
    until(lambda: version() == "" and call("GET", WEB, proxy=second.proxy("echo")).status == 200)


def test_an_application_finds_tcp_services_by_a_variable(second: RunningMesh) -> None:
    (pid,) = [pid for pid, line in second.command_lines().items() if "demo_app" in line]
    environment = dict(
        item.split("=", 1) for item in Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0") if "=" in item
    )
    host, _, port = environment["ECHO_DATA_TCP_ECHO_ADDR"].partition(":")
    assert host == second.replica("web-0").address, "a port of its own sidecar"
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"hello")
        assert connection.recv(100) == b"HELLO"


@pytest.mark.parametrize("victim", ["runner", "reaper"])
def test_kill_9_leaves_nothing(small: Path, tmp_path: Path, victim: str) -> None:
    running = start(small, tmp_path)
    try:
        guard = reaper_of(running.process.pid)
        processes = running.command_lines()
        assert len(processes) >= 8
        os.kill(running.process.pid if victim == "runner" else guard, signal.SIGKILL)
        running.process.wait(60)
    finally:
        running.process.kill()
    wait_for_end({**processes, guard: "reaper"})
    until(lambda: not Path(running.info.logs).parent.exists(), what="its directory is gone")
    logs = next((tmp_path / "state" / "lateen").glob("small mesh-*/last-logs"))
    assert (logs / "web-0.envoy.log").exists(), "the logs are kept for a look"


def test_exec_has_the_mesh_in_its_environment_and_gives_its_status(small: Path, tmp_path: Path) -> None:
    script = f"curl -s -x $LATEEN_PROXY_WEB {WEB} && test -S ${{LATEEN_CONTROL_PLANE#unix://}} && ls $LATEEN_LOGS && lateen version -o name && exit 7"
    for name in ("ca", "ratelimit", "redis", "yaml", "reaper"):  # whatever stands where it is called from
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not meant')")
    done = _up(small, tmp_path, "--exec", script, cwd=tmp_path)
    assert done.returncode == 7, done.stderr
    assert '"workload": "web"' in done.stdout
    assert "web-0.envoy.log" in done.stdout
    assert f"\n{__version__}\n" in done.stdout


def test_a_signal_reaches_the_command_of_exec(small: Path, tmp_path: Path) -> None:
    script = 'trap "echo bye; exit 9" TERM; echo ready; while :; do sleep 0.05; done'
    process = subprocess.Popen(
        command(small, "--exec", script), env=environment(tmp_path), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.wait(60) == 9
    assert process.stdout.read() == "bye\n"


def test_ctrl_c_during_the_start_ends_everything(small: Path, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as output:
        process = subprocess.Popen(command(small), env=environment(tmp_path), stdout=output, stderr=output)
    until(lambda: reaper_of(process.pid))
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130


def test_invalid_yaml_is_exit_3_with_every_error_and_nothing_is_started(small: Path, tmp_path: Path) -> None:
    (small / "bad.yaml").write_text(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: x}\nspec:\n  hots: [a]\n"
    )
    (small / "web.yaml").write_text(SMALL.replace("image: demo", "image: unknown:1"))
    done = _up(small, tmp_path)
    assert done.returncode == 3
    assert "bad.yaml:5:3" in done.stderr
    assert 'did you mean "hosts"' in done.stderr
    assert 'image "unknown:1" has no local command' in done.stderr
    assert "lateen.yaml" in done.stderr
    assert not (tmp_path / "state").exists()


def test_an_empty_directory_is_exit_3(tmp_path: Path) -> None:
    done = _up(tmp_path, tmp_path)
    assert done.returncode == 3
    assert "nothing to run" in done.stderr


def test_an_application_that_does_not_start_is_exit_5_with_its_log(small: Path, tmp_path: Path) -> None:
    failing = "command: [python3, -c, 'raise SystemExit(\"no database\")']"
    (small / "lateen.yaml").write_text(LOCAL.replace("command: [python3, -m, lateen.local.demo_app]", failing))
    done = _up(small, tmp_path, "--exec", "true")
    assert done.returncode == 5
    assert "web-0.app does not start: exited with status 1" in done.stderr
    assert "no database" in done.stderr
    logs = Path(done.stderr.partition("all logs: ")[2].strip())
    assert "no database" in (logs / "web-0.app.log").read_text()


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_a_port_that_somebody_has_taken_is_said_before_anything_starts(
    small: Path, tmp_path: Path, address: str
) -> None:
    server = (
        "import socket, sys; s = socket.create_server((sys.argv[1], 0), family=socket.AF_INET6 if ':' in sys.argv[1] "
        "else socket.AF_INET, dualstack_ipv6=':' in sys.argv[1]); print(s.getsockname()[1], flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", server, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        port = other.stdout.readline().strip()
        (small / "web.yaml").write_text(SMALL.replace("8080", port))
        done = _up(small, tmp_path, "--exec", "true")
        other.communicate()
    assert done.returncode == 2
    assert f"port {port}, which shop/web needs, is taken on every address of this host by `" in done.stderr
    assert f"(pid {other.pid})" in done.stderr
    assert not (tmp_path / "state").exists()


def _on_a_small_disk(small: Path, tmp_path: Path, before: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """`lateen up` with its files on a file system of 2 MB, in a mount namespace that goes with it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = (
        f'disk=$1; shift; mount -t tmpfs -o size=2m tmpfs "$disk" && cd "$disk" && mkdir t s && {before}; exec "$@"'
    )
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(disk), *command(small, *arguments)],
        env={**os.environ, "TMPDIR": f"{disk}/t", "XDG_STATE_HOME": f"{disk}/s"},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )


needs_mounts = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")


@needs_mounts
def test_a_full_disk_is_no_bug_of_ours(small: Path, tmp_path: Path) -> None:
    done = _on_a_small_disk(small, tmp_path, "dd if=/dev/zero of=fill bs=4k 2>/dev/null", "--exec", "true")
    # 2 if the runner meets it, 5 if one of the services does.
    assert done.returncode in {2, 5}, done.stderr
    assert "No space left on device" in done.stderr


@needs_mounts
def test_a_disk_that_fills_up_ends_nothing(small: Path, tmp_path: Path) -> None:
    fill = "dd if=/dev/zero of=$disk/fill bs=4k 2>/dev/null"
    apply = "lateen apply -f web.yaml; lateen get deployments -o name"
    script = (
        f"disk={tmp_path}/disk; {fill}; cd '{small}'; {apply}; "
        f"for i in 1 2 3 4 5 6 7 8; do curl -sf -x $LATEEN_PROXY_WEB {WEB} && break; sleep 0.5; done; rm $disk/fill; lateen proxy-status -o name"
    )
    done = _on_a_small_disk(small, tmp_path, ":", "--exec", script)
    assert done.returncode == 0, done.stderr
    assert '"workload": "web"' in done.stdout
    assert "web-0.shop" in done.stdout


def test_not_in_sync_in_time_is_exit_5_and_says_who(small: Path, tmp_path: Path) -> None:
    (small / "lateen.yaml").write_text(
        LOCAL.replace("command: [python3, -m, lateen.local.demo_app]", "command: [sleep, '600']")
    )
    done = _up(small, tmp_path, "--exec", "true", "--timeout", "20")
    assert done.returncode == 5
    assert "shop/web-0: web does not listen on port 8080" in done.stderr


def test_applications_that_do_not_work_hold_up_nobody(small: Path, tmp_path: Path) -> None:
    """One crashes, one does not exist, one listens elsewhere: the rest runs, and each comes back when its reason has gone."""
    program, database = tmp_path / "program", tmp_path / "database"
    deployment = SMALL.partition("---")[0]
    broken = (deployment.replace("web", name).replace("demo", name) for name in ("crash", "gone", "lost"))
    parts = [SMALL, *broken]
    (small / "web.yaml").write_text("\n---\n".join(parts))
    run_demo = "exec python3 -m lateen.local.demo_app"
    images = {
        "demo": ["python3", "-m", "lateen.local.demo_app"],
        "crash": ["sh", "-c", f"test -e {database} && {run_demo}; echo no database; exit 1"],
        "gone": [str(program)],
        "lost": ["python3", "-m", "http.server", "--bind", ELSEWHERE, "8080"],
    }
    local = {"images": {name: {"command": command} for name, command in images.items()}}
    (small / "lateen.yaml").write_text(LOCAL.partition("spec:")[0] + f"spec: {json.dumps(local)}")
    running = start(small, tmp_path)
    try:
        assert call("GET", WEB, proxy=running.proxy("web")).json["workload"] == "web"
        rows = {line.split()[0]: line for line in running.output.splitlines() if line.startswith("shop/")}
        assert rows["shop/web-0"].endswith("RUNNING")
        assert rows["shop/crash-0"].endswith("CRASHING")
        assert rows["shop/gone-0"].endswith("CRASHING")
        assert rows["shop/lost-0"].endswith("NOT LISTENING")
        until(lambda: "error: crash-0.app exited with status 1" in running.output)
        until(lambda: f"gone-0.app cannot be started: {program}: No such file" in running.output)
        until(lambda: f"does not listen on port 8080 but on {ELSEWHERE}:8080" in running.output)
        assert "no database" in running.output
        assert [replica.app for replica in _info(running).replicas if replica.name == "crash-0"] == ["CRASHING"]
        database.touch()
        program.write_text(f"#!/bin/sh\n{run_demo}\n")
        program.chmod(0o755)
        until(lambda: "shop/crash-0 serves" in running.output and "shop/gone-0 serves" in running.output)
    finally:
        assert running.stop() == 0


def test_a_new_replica_gets_traffic_when_it_listens_and_not_before(second: RunningMesh, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    slow = SMALL.partition("---")[0].replace("name: web,", "name: slow,").replace("image: demo", "image: slow")
    command = f"[sh, -c, 'until test -e {gate}; do sleep 0.05; done; exec python3 -m lateen.local.demo_app']"
    with second.edited("lateen.yaml", ("{images: {", f"{{images: {{slow: {{command: {command}}}, ")):
        (second.directory / "slow.yaml").write_text(slow)
        until(lambda: "slow-0" in second.proxies(), what="its proxy is connected")
        answers = [call("GET", WEB, proxy=second.proxy("echo")) for _ in range(30)]
        assert {(a.status, a.json["workload"]) for a in answers} == {(200, "web")}
        gate.touch()

        def answering() -> str:
            answer = call("GET", WEB, proxy=second.proxy("echo"))
            assert answer.status == 200, answer
            return str(answer.json["workload"])

        until(lambda: answering() == "slow")
        pids = [pid for pid, line in second.command_lines().items() if "demo_app" in line]
        gate.unlink()
        (slow_pid,) = [pid for pid in pids if b"WORKLOAD=slow" in Path(f"/proc/{pid}/environ").read_bytes()]
        os.kill(slow_pid, signal.SIGKILL)  # it hangs when it starts again: no traffic again
        until(lambda: [r.app for r in _info(second).replicas if r.name == "slow-0"] == ["STARTING"])
        until(lambda: {call("GET", WEB, proxy=second.proxy("echo")).text.count('"web"') for _ in range(20)} == {1})
        (second.directory / "slow.yaml").unlink()
        until(lambda: "stopped shop/slow-0" in second.output)


def _info(mesh: RunningMesh) -> RunInfo:
    (info,) = [run for run in live_runs() if run.id == mesh.info.id]
    return info


def test_the_five_printed_commands_work_when_pasted(mesh: RunningMesh) -> None:
    lines = mesh.output.partition("try, in another terminal:")[2].splitlines()
    commands = [line.strip() for line in lines if line.startswith(("  curl", "  for"))]
    assert len(commands) == 5
    until(lambda: mesh.charge().status == 200)
    which = {**os.environ, "LATEEN_CONTROL_PLANE": mesh.info.control_plane}  # others may have started since
    outputs = []
    for text in commands:
        began = time.monotonic()
        done = subprocess.run(["bash", "-c", text], env=which, capture_output=True, text=True, check=True, timeout=120)
        outputs.append(done.stdout)
    seconds = time.monotonic() - began
    assert outputs[0].startswith("HTTP/1.1 403")
    assert "x-lateen-denial" in outputs[0]
    assert '"method": "GET"' in outputs[1]
    assert "sa/orders-svc" in outputs[2]
    assert '"version": "v2"' in outputs[3]
    codes = outputs[4].split()
    assert len(codes) == 12
    assert set(codes) <= {"200", "429"}
    assert codes.count("200") <= 5 * (int(seconds) + 2), (
        "five in each second, which has two 429 at least unless the machine is slow"
    )


def test_the_start_is_fast(mesh: RunningMesh) -> None:
    seconds = float(mesh.output.partition("ready in ")[2].split()[0])
    assert seconds < 30, "15 s is the promise on an idle machine of two cores"


def test_it_ends_with_the_process_that_started_it(small: Path, tmp_path: Path) -> None:
    """`make up`, and then kill -9 of make."""
    line = [sys.executable, "-m", "lateen.cli.main", "up", str(small), "--stop-with-parent"]
    script = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    with (tmp_path / "out").open("wb") as output:
        parent = subprocess.Popen(
            [sys.executable, "-c", script, *line], env=environment(tmp_path), stdout=output, stderr=output
        )
    try:
        until(lambda: b"ready in" in (tmp_path / "out").read_bytes(), what="lateen up is ready")
        (run,) = [run for run in live_runs() if run.directory == str(small)]
        processes = command_lines(run.pid, run.id)
        assert len(processes) > 5
    finally:
        parent.kill()
        parent.wait()
    wait_for_end(processes)
