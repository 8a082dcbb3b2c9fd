"""What a broken or hostile filter can do to Envoy: fail its own request, and nothing else."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.filters.envoy.application import arrived, released
from tests.filters.envoy.envoys import FilterEnvoy

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("filters"), pytest.mark.timeout(600)]

CAUGHT = {
    "/raise": "RuntimeError: broken on purpose",
    "/exit": "SystemExit: 3",
    "/wrong/result": "TypeError: a filter returns a Response or None, not str",
    "/loop": "CpuLimitExceeded",
    "/loop/catch": "CpuLimitExceeded",
    "/redos": "CpuLimitExceeded",
    "/bigint": "CpuLimitExceeded",
    "/recurse": "RecursionError",
    "/recurse/json": "RecursionError",
    "/memory": "MemoryError",
    "/compile": "RuntimeError: this module was built without Python's compiler",
}
STUBBORN = ("/loop/stubborn", "/loop/c")


@pytest.mark.parametrize("listener", ["closed", "short"])
@pytest.mark.parametrize(("path", "reason"), CAUGHT.items(), ids=[path.strip("/") for path in CAUGHT])
def test_the_request_fails_with_a_traceback_and_the_vm_lives(
    envoy: FilterEnvoy, path: str, reason: str, listener: str
) -> None:
    before = len(envoy.log())
    answer = envoy.request(path, listener=listener)
    assert (answer.status_code, answer.text) == (500, "internal error\n")
    assert reason in envoy.wait_log(reason, before)
    assert envoy.request("/nothing", listener=listener).status_code == 200
    assert "wasm_vm.cc" not in envoy.log()[before:]


@pytest.mark.parametrize("listener", ["open", "short-open"])
@pytest.mark.parametrize("path", CAUGHT)
def test_fail_open_lets_the_request_pass(envoy: FilterEnvoy, path: str, listener: str) -> None:
    answer = envoy.request(path, listener=listener)
    assert (answer.status_code, answer.text.split()[1]) == (200, path)


@pytest.mark.parametrize("listener", ["closed", "short"])
def test_a_body_of_10_mb_is_refused_when_all_of_it_is_wanted_and_passes_in_chunks(
    envoy: FilterEnvoy, listener: str
) -> None:
    body = b"0123456789" * (1 << 20)
    assert envoy.request("/body", "POST", content=body, listener=listener).status_code == 413
    assert envoy.request("/chunks", "POST", content=body, listener=listener).json()["length"] == len(body)


def test_a_loop_harms_no_other_request(envoy: FilterEnvoy) -> None:
    """They wait for their worker as long as the limit allows, and are answered."""
    with ThreadPoolExecutor(8) as pool:
        loops = [pool.submit(envoy.request, "/loop", listener="short") for _ in range(4)]
        others = [pool.submit(envoy.request, "/api/v2", listener="maintenance") for _ in range(20)]
        assert {call.result().status_code for call in loops} == {500}
        assert {call.result().text.split()[2] for call in others} == {"matched"}


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/response/loop", "CpuLimitExceeded"), ("/log/loop", "CpuLimitExceeded"), ("/log/raise", "on_log is broken")],
)
def test_failures_after_the_request(envoy: FilterEnvoy, path: str, reason: str) -> None:
    before = len(envoy.log())
    assert envoy.request(path).status_code == (500 if "response" in path else 200)
    assert reason in envoy.wait_log(reason, before)
    assert envoy.request("/nothing").status_code == 200
    assert "wasm_vm.cc" not in envoy.log()[before:]


def test_a_request_that_is_kept_is_not_used_again(envoy: FilterEnvoy) -> None:
    def identity() -> str:
        return envoy.request("/identity", listener="short").text

    assert len({identity() for _ in range(5)}) == 1
    for query in ("?all", ""):
        assert envoy.request(f"/keep{query}", listener="short").status_code == 200
        assert envoy.request("/kept", listener="short").json() == [False, False]
    assert envoy.request("/replaced/headers", listener="short").status_code == 200
    assert envoy.request("/headers", listener="short", headers=[("x-one", "1")]).json()["get"] == "1"


def test_a_limit_that_is_reached_on_a_busy_machine_ends_no_vm(envoy: FilterEnvoy) -> None:
    """Between an exception and its handling it is steps that count, not what others do with the processor meanwhile."""
    assert envoy.until_ok("/nothing").status_code == 200
    before = len(envoy.log())
    assert envoy.request("/loop/starved").status_code == 500
    assert "CpuLimitExceeded" in envoy.wait_log("AsksTheClock", before)
    assert envoy.request("/nothing").status_code == 200
    assert "wasm_vm.cc" not in envoy.log()[before:]


def test_traceback_names_file_and_line(envoy: FilterEnvoy) -> None:
    envoy.request("/raise")
    source = (Path(__file__).with_name("behaviour") / "behaviour.py").read_text().splitlines()
    line = next(number for number, text in enumerate(source, 1) if "broken on purpose" in text)
    assert f'behaviour.py", line {line}, in inner' in envoy.wait_log("in inner")


def test_failure_in_on_response(envoy: FilterEnvoy) -> None:
    assert envoy.request("/response/error").status_code == 500


@pytest.mark.parametrize("path", STUBBORN)
def test_a_loop_that_cannot_be_stopped_ends_the_vm_and_a_new_one_comes(envoy: FilterEnvoy, path: str) -> None:
    assert envoy.until_ok("/nothing").status_code == 200
    assert envoy.request(path).status_code == 503
    assert envoy.until_ok("/nothing").status_code == 200
    first, _ = envoy.until_ok("/random").json()
    assert first != envoy.request("/random").json()[0]


def test_when_a_vm_ends_what_it_had_in_work_is_refused_or_cut_off(envoy: FilterEnvoy) -> None:
    """Nothing goes on without its filter, neither a request whose answer has not come nor an answer that has begun."""
    assert envoy.until_ok("/nothing").status_code == 200
    arrived.clear()
    released.clear()
    url = f"http://127.0.0.1:{envoy.ports['closed']}/begun"
    with ThreadPoolExecutor(1) as pool, httpx.stream("GET", url, timeout=60) as begun:
        assert begun.status_code == 200
        held = pool.submit(envoy.request, "/held")
        assert arrived.wait(60)
        assert envoy.request("/loop/c").status_code == 503
        released.set()
        with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
            begun.read()
        assert held.result().status_code == 503
    assert envoy.until_ok("/nothing").status_code == 200
