"""The same policies enforced by Envoy itself: switched over and back in the running mesh, with the keys of a real issuer."""

from collections.abc import Iterator

import pytest

from tests.e2e.client import call
from tests.e2e.running import CHARGE, RunningMesh, until

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e")]
_ACME = {"x-tenant": "acme"}
_SECONDS = 30.0


def _denied_by(mesh: RunningMesh) -> str:
    """Who denies a request that nothing allows; it is denied whoever does."""
    answer = call("GET", CHARGE, proxy=mesh.proxy("orders"))
    assert (answer.status, answer.text) == (403, "RBAC: access denied")
    return "service" if "x-lateen-denial" in answer.headers else "envoy"


@pytest.fixture(scope="module")
def native(mesh: RunningMesh) -> Iterator[RunningMesh]:
    file = mesh.directory / "mesh.yaml"
    before = file.read_text()
    assert _denied_by(mesh) == "service"
    file.write_text(before + "\nenforcement: native\n")
    try:
        until(lambda: _denied_by(mesh) == "envoy", _SECONDS, "Envoy enforces the policies")
        until(lambda: call("GET", f"{mesh.gateway}/v1/charge", mesh.bearer()).status == 200, _SECONDS, "keys have come")
        yield mesh
    finally:
        file.write_text(before)
        until(lambda: _denied_by(mesh) == "service", _SECONDS, "the service enforces the policies again")


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
