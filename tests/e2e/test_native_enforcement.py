"""The same policies enforced by Envoy itself: switched over and back in the running mesh, with the keys of a real issuer."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import pytest

from tests.e2e.client import Client, call
from tests.e2e.running import CHARGE, RunningMesh, until
from tests.e2e.test_why_was_it_denied import lateen

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]
_ACME = {"x-tenant": "acme"}
_SECONDS = 120.0


def _denied_by(mesh: RunningMesh) -> str:
    """Who denies a request that nothing allows; it is denied whoever does."""
    answer = call("GET", CHARGE, proxy=mesh.proxy("orders"))
    assert (answer.status, answer.text) == (403, "RBAC: access denied")
    return "service" if "x-lateen-denial" in answer.headers else "envoy"


def _all_denied_by(mesh: RunningMesh, by: str) -> bool:
    """Whichever replica is asked, and over whichever kept connection: those of before keep their policies until they are drained."""
    return all(_denied_by(mesh) == by for _ in range(20))


_NAMESPACE = "  name: payments\n---"
_NATIVE_NAMESPACE = "  name: payments\n  labels: {lateen.dev/enforcement: native}\n---"


class _Load:
    """Requests of one kind, one after the other on a kept connection, with what became of them."""

    def __init__(self, expected: int, method: str, url: str, headers: Mapping[str, str], proxy: str = "") -> None:
        self.expected = expected
        self.seen: Counter[int] = Counter()
        self.stopped = threading.Event()
        self._call: Callable[[Client], int] = lambda client: client.call(method, url, headers).status
        self._proxy = proxy
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        client = Client(self._proxy)
        while not self.stopped.wait(0.005):
            # A kept connection may be closed just when a request is on its way, as at any listener that drains: it is sent again.
            status = self._call(client) or self._call(Client(self._proxy))
            self.seen[status] += 1

    def passed(self, more: int) -> None:
        """Wait until so many further requests have been answered."""
        target = self.seen.total() + more
        until(lambda: self.seen.total() >= target, _SECONDS, "requests go on")


def test_switching_engines_under_load_lets_nothing_through_and_fails_nothing(mesh: RunningMesh) -> None:
    gateway, orders = f"{mesh.gateway}/v1/charge", mesh.proxy("orders")
    assert _denied_by(mesh) == "service"
    file = mesh.directory / "mesh.yaml"
    before = file.read_text()
    loads = [
        _Load(200, "GET", gateway, mesh.bearer()),
        _Load(200, "GET", CHARGE, mesh.bearer(), orders),
        _Load(403, "GET", gateway, {}),
        _Load(401, "GET", gateway, mesh.bearer("a.b.c")),
        _Load(403, "POST", CHARGE, {"x-tenant": "initech"}, orders),
        _Load(403, "POST", CHARGE, _ACME, mesh.proxy("ledger")),
    ]

    def switched(by: str) -> None:
        until(lambda: _denied_by(mesh) == by, _SECONDS, f"{by} decides")
        until(mesh.settled, _SECONDS, "all proxies have it")
        for load in loads:
            load.passed(20)

    try:
        with mesh.edited("workloads.yaml", (_NAMESPACE, _NATIVE_NAMESPACE)):
            switched("envoy")
            file.write_text(before + "\nenforcement: native\n")
            for load in loads:
                load.passed(20)
        switched("envoy")
        file.write_text(before)
        switched("service")
    finally:
        file.write_text(before)
        for load in loads:
            load.stopped.set()
            load.thread.join(30)
        until(lambda: _all_denied_by(mesh, "service"), _SECONDS, "the service enforces the policies again")
    assert [dict(load.seen) for load in loads] == [{load.expected: load.seen.total()} for load in loads]


@pytest.fixture(scope="module")
def native(mesh: RunningMesh) -> Iterator[RunningMesh]:
    file = mesh.directory / "mesh.yaml"
    before = file.read_text()
    assert _denied_by(mesh) == "service"
    file.write_text(before + "\nenforcement: native\n")
    try:
        until(lambda: _all_denied_by(mesh, "envoy"), _SECONDS, "Envoy enforces the policies")
        until(lambda: call("GET", f"{mesh.gateway}/v1/charge", mesh.bearer()).status == 200, _SECONDS, "keys have come")
        yield mesh
    finally:
        file.write_text(before)
        until(lambda: _all_denied_by(mesh, "service"), _SECONDS, "the service enforces the policies again")


def test_identities_and_headers(native: RunningMesh) -> None:
    until(lambda: call("POST", CHARGE, _ACME, proxy=native.proxy("orders")).status == 200, 10, "the rule allows it")
    assert call("POST", CHARGE, proxy=native.proxy("orders")).status == 403
    assert call("POST", CHARGE, _ACME, proxy=native.proxy("ledger")).status == 403


def test_tokens(native: RunningMesh) -> None:
    charge = f"{native.gateway}/v1/charge"
    assert call("GET", charge).status == 403
    assert call("POST", charge, {**native.bearer(), **_ACME}).status == 403
    forged = call("GET", charge, {"authorization": "Bearer a.b.c"})
    assert forged.status == 401
    assert 'error="invalid_token"' in forged.headers["www-authenticate"]


def test_a_token_is_explained_with_the_keys_of_the_control_plane(native: RunningMesh) -> None:
    for token, verdict in ((native.token(), "allow"), (native.token()[:-8] + "AAAAAAAA", "unauthenticated")):
        told = lateen(
            *(native, "explain", "authz", "--from", "orders", "--to", "payments-api"),
            *("GET", "/v1/charge", "--token", token, "-o", "json"),
        )
        value = json.loads(told.stdout)
        assert value["verdict"] == verdict
        assert value["notes"] == ["enforced by the proxy itself (native): denials have no id"]
    keys = lateen(native, "authz", "keys", "-o", "json")
    held = [source for source in json.loads(keys.stdout)["sources"] if source["replica"] == "control plane"]
    assert [(source["failures"], source["keys"] > 0) for source in held] == [(0, True)]
