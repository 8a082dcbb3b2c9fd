"""What a filter can do, seen from outside: the linked module in a real Envoy."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from filters.sdk import dispatch
from filters.sdk.config import ConfigError
from filters.toolchain.local_envoy import Chain, Placed
from tests.filters.envoy.behaviour import behaviour
from tests.filters.envoy.envoys import FilterEnvoy

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("filters"), pytest.mark.timeout(600)]


def test_a_request_passes(envoy: FilterEnvoy) -> None:
    answer = envoy.request("/nothing?a=1")
    assert (answer.status_code, answer.text.split()) == (200, ["GET", "/nothing?a=1", "-"])


@pytest.mark.parametrize("listener", ["closed", "short"])
def test_headers_read_and_written(envoy: FilterEnvoy, listener: str) -> None:
    sent = [("X-One", "1"), ("x-twice", "a"), ("x-remove", "gone"), ("cookie", "s=1; t=2"), ("x-utf8", "grün")]
    found = envoy.request("/headers?a=1&b=%20x", headers=sent, listener=listener).json()
    assert found.pop("authority").startswith("127.0.0.1:")
    assert {"x-one", "x-new", "cookie"} <= set(found.pop("names"))
    assert found == {
        "get": "1",
        "missing": None,
        "default": "default",
        "twice": "a, b",
        "all": ["a", "b"],
        "new": "new",
        "removed": ["gone", None],
        "in": [True, False],
        "method": "GET",
        "path": "/headers",
        "query": {"a": "1", "b": " x"},
        "utf8": "grün",
        "cookies": {"s": "1", "t": "2"},
    }


def test_the_path_is_rewritten_and_the_query_kept(envoy: FilterEnvoy) -> None:
    assert envoy.request("/rewrite?q=1").text.split()[1] == "/elsewhere?q=1"


def test_local_reply_with_configured_text(envoy: FilterEnvoy) -> None:
    answer = envoy.request("/down", listener="maintenance")
    assert (answer.status_code, answer.text, answer.headers["retry-after"]) == (503, "soon\n", "5")


def test_rules_of_the_configuration(envoy: FilterEnvoy) -> None:
    assert envoy.request("/api/v2", listener="maintenance").text.split()[2] == "matched"
    assert envoy.request("/api/x", listener="maintenance").text.split()[2] == "-"


def test_two_filters_of_one_module_in_one_chain(envoy: FilterEnvoy) -> None:
    assert envoy.request("/down", listener="both").text == "both\n"
    assert envoy.request("/rewrite", listener="both").text.split()[1] == "/elsewhere"


def test_body_buffered(envoy: FilterEnvoy) -> None:
    body = b"x" * 200_000 + b"last"
    assert envoy.request("/body", "POST", content=body).json() == {"length": len(body), "end": "last"}
    assert envoy.request("/body", "POST", content=b"").json() == {"length": 0, "end": ""}
    assert envoy.request("/body").json() == {"length": 0, "end": ""}


def test_body_over_the_limit(envoy: FilterEnvoy) -> None:
    assert envoy.request("/body/limit", "POST", content=b"x" * 1000).json() == {"length": 1000}
    assert envoy.request("/body/limit", "POST", content=b"x" * 1001).status_code == 413
    assert envoy.request("/body", "POST", content=b"x" * (10 << 20)).status_code == 413


@pytest.mark.parametrize("listener", ["closed", "short"])
def test_call_during_a_request(envoy: FilterEnvoy, listener: str) -> None:
    status, first, second, body = envoy.request("/call", "POST", content=b"mine", listener=listener).json()
    assert (status, first.split()[:2], second.split()[:2]) == (200, ["GET", "/called"], ["POST", "/again"])
    assert body == "mine"


def test_request_goes_on_after_a_call(envoy: FilterEnvoy) -> None:
    assert envoy.request("/call/pass").text.split()[1] == "/after-200"


def test_call_of_an_unknown_cluster_is_an_exception(envoy: FilterEnvoy) -> None:
    assert "cannot call cluster 'nowhere'" in envoy.request("/call/fail").text


def test_response_headers_and_status(envoy: FilterEnvoy) -> None:
    answer = envoy.request("/response/header")
    assert (answer.status_code, answer.headers["x-status-was"]) == (201, "200")


def test_response_body_changed(envoy: FilterEnvoy) -> None:
    answer = envoy.request("/response/body")
    assert answer.text.split()[1] == "/RESPONSE/BODY"
    assert int(answer.headers["content-length"]) == len(answer.content)


def test_response_replaced(envoy: FilterEnvoy) -> None:
    answer = envoy.request("/response/replace")
    assert (answer.status_code, answer.text) == (502, "replaced\n")


def test_properties(envoy: FilterEnvoy) -> None:
    path, source, cluster, port, mtls, missing = envoy.request("/properties").json()
    assert (path, cluster, mtls, missing) == ("/properties", "upstream", False, None)
    assert source == f"127.0.0.1:{port}"


def test_shared_data_compares_and_sets(envoy: FilterEnvoy) -> None:
    first = envoy.request("/shared").json()
    second = envoy.request("/shared").json()
    assert int(second[0]) == int(first[0]) + 1
    assert first[1:] == [False, True]


def test_calls_of_many_requests_at_once(envoy: FilterEnvoy) -> None:
    with ThreadPoolExecutor(10) as pool:
        answers = pool.map(lambda n: envoy.request(f"/call/parallel?path=/{n}", listener="short").text, range(40))
        assert [answer.split()[1] for answer in answers] == [f"/{n}" for n in range(40)]


def test_ticks_call_go_on_after_failures_and_are_logged(envoy: FilterEnvoy) -> None:
    end = time.monotonic() + 30
    ticks, calls = envoy.request("/", listener="ticker").json()
    while calls < 3 and time.monotonic() < end:
        time.sleep(0.1)
        ticks, calls = envoy.request("/", listener="ticker").json()
    assert calls >= 3
    assert ticks > calls
    for reason in ("RuntimeError: on_tick is broken", "CpuLimitExceeded", "TypeError"):
        assert reason in envoy.wait_log(reason)


def test_metrics(envoy: FilterEnvoy) -> None:
    assert envoy.request("/metrics").json() == [5, 7]
    envoy.request("/histogram")
    stats = httpx.get(f"http://{envoy.admin}/stats?filter=behaviour_").text
    assert "wasmcustom.behaviour_level: 7" in stats
    assert int(stats.partition("wasmcustom.behaviour_seen: ")[2].split()[0]) >= 5
    assert "wasmcustom.behaviour_spread" in stats


def test_print_logging_and_on_log(envoy: FilterEnvoy) -> None:
    envoy.request("/logs")
    envoy.request("/log")
    log = envoy.wait_log("on_log GET 200")
    for line in ("printed line", "on stderr", "behaviour: logged 42", "on_log GET 200"):
        assert f"{line}\n" in log


def test_random_differs_from_what_the_module_was_built_with(envoy: FilterEnvoy) -> None:
    first, baked = envoy.request("/random").json()
    second, _ = envoy.request("/random").json()
    assert len({first, second, baked}) == 3


def test_import_inside_a_function(envoy: FilterEnvoy) -> None:
    assert envoy.request("/lazy").text.startswith("2d711642b726b044")


def test_wrong_types_are_exceptions_not_traps(envoy: FilterEnvoy) -> None:
    assert envoy.request("/types").json() == [
        *["TypeError"] * 3,
        *["ValueError"] * 2,
        "TypeError",
        "ValueError",
        *["TypeError"] * 4,
        "UnicodeEncodeError",
        "FileNotFoundError",
    ]


@pytest.mark.parametrize(
    ("name", "config", "reason"),
    [
        ("maintenance", {}, "message: required"),
        ("maintenance", {"message": 1}, "message: expected a string, got 1"),
        ("maintenance", {"message": "", "retryAfter": -1}, "retryAfter is negative"),
        ("maintenance", {"message": "", "rules": [{"path": "("}]}, "rules[0].path: not a regular expression"),
        ("other", {}, "this module has no filter 'other'"),
    ],
    ids=["required", "type", "validate", "regex", "unknown filter"],
)
def test_bad_configuration_is_refused_with_the_reason(name: str, config: dict[str, object], reason: str) -> None:
    """The same code as in the module, as plain Python: an Envoy for each case would take a minute."""
    assert behaviour.Maintenance.name == "maintenance"  # importing it has registered its filters
    with pytest.raises(ConfigError) as caught:
        dispatch.configured(name, json.dumps(config).encode())
    assert any(reason in problem for problem in caught.value.problems)


def test_envoy_refuses_a_bad_configuration_and_logs_the_reason(module: Path) -> None:
    refused = FilterEnvoy(module, [Chain([Placed("maintenance", {"mesage": "x"})], name="closed")], wait=False)
    try:
        refused.process.wait(60)
        assert refused.process.returncode != 0
        log = refused.wait_log("message: required")
        assert "invalid configuration: mesage: no such field (known: message, retryAfter, rules, mode)" in log
        assert "invalid configuration: message: required" in log
    finally:
        refused.stop()
