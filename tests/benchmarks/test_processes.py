"""CPU time is read right, and every process of a mesh is put down to the right account."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from benchmarks.processes import (
    ELSEWHERE,
    LOAD,
    Found,
    Meter,
    Process,
    ProcessGoneError,
    apart,
    cpu_seconds,
    identify,
    machine_seconds,
    option,
    processes_with,
    read_cpu,
)

ENVOYS = {"12": ("sidecar", "authz-0"), "220": ("gateway", "edge-istio-0")}
STAT = (
    "42 (a (strange) name) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 7 8 20 0 3 0 1000 1000000 200 18446744073709551615"
)


def test_user_and_system_time_are_added_up_whatever_the_command_is_called() -> None:
    assert cpu_seconds(STAT, ticks_per_second=100) == pytest.approx(3.0)


def test_the_meter_sees_what_this_process_spends() -> None:
    meter = Meter([Process(os.getpid(), "us")])
    meter.start()
    start = time.process_time()
    while time.process_time() - start < 0.05:
        pass
    spent = meter.stop()
    assert 0.03 <= spent["us"] < 5
    assert 0.03 <= spent[LOAD] < 5
    assert spent[ELSEWHERE] >= 0


def test_what_the_machine_spent_is_all_but_idle_and_disk() -> None:
    stat = "cpu  100 20 30 9000 5000 7 8 35 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n"
    assert machine_seconds(stat, ticks_per_second=100) == pytest.approx(2.0)


def test_a_process_that_ended_is_noticed() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    with pytest.raises(ProcessGoneError, match=str(pid)):
        read_cpu(pid)


@pytest.mark.parametrize(
    ("arguments", "environ", "expected"),
    [
        (("/usr/bin/python3", "-m", "extauthz", "--address", "127.1.2.3:9191"), {}, ("ext_authz", "")),
        (("/usr/bin/python3", "-m", "ratelimit", "--redis-url", "unix:///r"), {}, ("rate limit", "")),
        (("/usr/bin/redis-server", "unixsocket:/run/redis.sock"), {}, ("redis", "")),
        (("/usr/bin/redis-server unixsocket:/tmp/run/redis.sock",), {}, ("redis", "")),
        (("/x/envoy", "--config-path", "/run/a1/bootstrap/12.json"), {}, ("sidecar", "authz-0")),
        (
            ("/x/envoy", "--config-path", "/run/a1/bootstrap/220.json", "--concurrency", "1"),
            {},
            ("gateway", "edge-istio-0"),
        ),
        (("/x/envoy", "--config-path", "/elsewhere/99.json"), {}, ("other", "")),
        (("/x/envoy", "--service-cluster", "fast-app"), {"REPLICA": "jwt-0"}, ("app", "jwt-0")),
        (("/usr/bin/python3", "-m", "lateen.controlplane"), {}, ("other", "")),
        (("",), {}, ("other", "")),
    ],
)
def test_processes_are_told_apart(
    arguments: tuple[str, ...], environ: dict[str, str], expected: tuple[str, str]
) -> None:
    found = identify(Found(7, arguments, environ), ENVOYS)
    assert (found.kind, found.name) == expected


def test_processes_are_found_by_their_environment_and_by_their_command_line(tmp_path: Path) -> None:
    sleep = ["sleep", "60"]
    file = tmp_path / "file"
    file.touch()
    with (
        subprocess.Popen(sleep, env={**os.environ, "BENCHMARK_MARK": "a1"}) as marked,
        subprocess.Popen(["tail", "-f", str(file)]) as named,
        subprocess.Popen(sleep) as other,
    ):
        try:
            found = {process.pid: process for process in processes_with("BENCHMARK_MARK", "a1", f"{tmp_path}/")}
        finally:
            for process in (marked, named, other):
                process.kill()
    assert set(found) == {marked.pid, named.pid}
    assert found[marked.pid].arguments == ("sleep", "60")


def test_an_option_is_the_word_after_its_name() -> None:
    assert option(("envoy", "--concurrency", "2"), "--concurrency") == "2"
    assert option(("envoy", "--concurrency"), "--concurrency", "1") == "1"


def test_the_process_that_is_measured_has_a_cpu_for_itself() -> None:
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("this process may use one CPU only")
    other = subprocess.Popen(["sleep", "60"])
    try:
        with apart(other.pid):
            theirs, ours = os.sched_getaffinity(other.pid), os.sched_getaffinity(0)
            assert len(theirs) == 1
            assert ours == allowed - theirs
        assert os.sched_getaffinity(0) == allowed
    finally:
        other.kill()
        other.wait()
