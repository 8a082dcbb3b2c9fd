"""What a broken or hostile filter can do to Envoy: fail its own request, and nothing else."""

from pathlib import Path

import pytest

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
}
STUBBORN = ("/loop/stubborn", "/loop/c")


@pytest.mark.parametrize(("path", "reason"), CAUGHT.items(), ids=[path.strip("/") for path in CAUGHT])
def test_the_request_fails_with_a_traceback_and_the_vm_lives(envoy: FilterEnvoy, path: str, reason: str) -> None:
    before = len(envoy.log())
    answer = envoy.request(path)
    assert (answer.status_code, answer.text) == (500, "internal error\n")
    assert reason in envoy.wait_log(reason, before)
    assert envoy.request("/nothing").status_code == 200
    assert "wasm_vm.cc" not in envoy.log()[before:]


@pytest.mark.parametrize("path", ["/raise", "/loop", "/memory"])
def test_fail_open_lets_the_request_pass(envoy: FilterEnvoy, path: str) -> None:
    answer = envoy.request(path, listener="open")
    assert (answer.status_code, answer.text.split()[1]) == (200, path)


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
