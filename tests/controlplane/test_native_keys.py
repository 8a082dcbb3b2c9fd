"""Keys for proxies that verify tokens themselves: fetched in the background, put into their configuration, stale while errors last."""

from __future__ import annotations

import asyncio
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from lateen.clock import SystemClock
from lateen.controlplane.keys import Keys
from lateen.controlplane.names import LDS
from lateen.controlplane.native_jwt import jwks
from lateen.controlplane.proxy import Mode, Proxy, ProxyType
from lateen.controlplane.snapshot import Memo, snapshot_for
from lateen.jwks.keys import parse_jwks
from lateen.mesh.loader import load_text
from lateen.mesh.meshconfig import MeshConfig
from lateen.mesh.view import MeshView
from lateen.policy.tokens import KeySource
from tests.jwks.keyserver import key_server

_MESH = """
apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {lateen.dev/enforcement: NAMESPACE}}
---
apiVersion: v1
kind: Service
metadata: {name: a, namespace: default}
spec: {selector: {app: a}, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: a, namespace: default, labels: {app: a LABEL}}
spec: {address: 127.0.0.9, serviceAccount: a}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: a, namespace: default}
spec: {jwtRules: [{issuer: https://i, jwksUri: "URL"}]}
"""


def _view(url: str, namespace: str = "native", label: str = "") -> MeshView:
    text = _MESH.replace("URL", url).replace("NAMESPACE", namespace).replace("LABEL", label)
    return MeshView.build(load_text(text, "mesh.yaml").resources, MeshConfig())


def _listeners(view: MeshView, keys: Keys | None = None) -> bytes:
    proxy = Proxy(
        id="sidecar~127.0.0.9~a.default~default.svc.cluster.local",
        type=ProxyType.SIDECAR,
        name="a",
        namespace="default",
        address="127.0.0.9",
        app_address="127.0.0.10",
        mode=Mode.NONE,
    )
    memo = Memo(keys=keys.of) if keys is not None else Memo()
    return b"".join(blob.data for blob in snapshot_for(view, proxy, memo).resources[LDS].values())


@pytest.mark.asyncio
async def test_keys_come_into_the_configuration_and_stay_while_the_issuer_is_down() -> None:
    public = json.loads(ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key()))
    changed = asyncio.Event()
    async with key_server() as server:
        url = server.serve_json("/keys", {"keys": [{**public, "kid": "fresh"}]})
        keys = Keys({}, "", SystemClock(), changed.set)
        try:
            view = _view(url)
            assert public["x"].encode() not in _listeners(view, keys)
            keys.follow(view)
            await asyncio.wait_for(changed.wait(), 20)
            assert public["x"].encode() in _listeners(view, keys)
            server.answers["/keys"] = (500, {}, b"")
            assert keys.of(KeySource(url=url)) is not None
            keys.follow(_view(url, "extAuthz"))
            assert keys.of(KeySource(url=url)) is None, "nobody needs them any more"
        finally:
            await keys.close()


def test_the_nearest_label_names_the_engine() -> None:
    assert b"jwt_authn" in _listeners(_view("https://i/keys"))
    assert b"jwt_authn" not in _listeners(_view("https://i/keys", "extAuthz"))
    assert b"jwt_authn" not in _listeners(_view("https://i/keys", label=", lateen.dev/enforcement: extAuthz"))
    assert b"jwt_authn" in _listeners(_view("https://i/keys", "extAuthz", ", lateen.dev/enforcement: native"))


def test_only_accepted_keys_are_passed_on() -> None:
    public = json.loads(ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key()))
    document = {"keys": [{**public, "kid": "good", "alg": "ES256"}, {"kty": "oct", "k": "c2VjcmV0", "kid": "secret"}]}
    passed = json.loads(jwks(parse_jwks(json.dumps(document))))["keys"]
    assert [(key["kid"], key["alg"]) for key in passed] == [("good", "ES256")]
    assert json.loads(jwks(None))["keys"][0]["kid"] == "none"
