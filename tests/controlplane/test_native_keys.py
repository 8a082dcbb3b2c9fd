"""Keys for proxies that verify tokens themselves: fetched in the background, put into their configuration, stale while errors last."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from lateen.clock import SystemClock
from lateen.controlplane.blobs import Blob
from lateen.controlplane.keys import REFRESH_SECONDS, Keys
from lateen.controlplane.names import LDS
from lateen.controlplane.native_jwt import jwks, jwt_filter
from lateen.controlplane.protos import packed
from lateen.controlplane.proxy import Mode, Proxy, ProxyType
from lateen.controlplane.snapshot import Memo, snapshot_for
from lateen.envoyapi.envoy.config.listener.v3 import listener_pb2
from lateen.envoyapi.envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm,
)
from lateen.jwks.keys import parse_jwks
from lateen.mesh.loader import load_text
from lateen.mesh.meshconfig import MeshConfig
from lateen.mesh.requestauthentication import RequestAuthenticationSpec
from lateen.mesh.view import MeshView
from lateen.policy.compile import PolicyOrigin
from lateen.policy.tokens import KeySource, TokenRules, compile_token_rules
from tests.controlplane.harness import running
from tests.controlplane.pki import Authority
from tests.controlplane.real_envoy import BLOBS, cluster, endpoints, listener, routes, running_envoy, upstream
from tests.fakes.clock import FakeClock
from tests.jwks.keyserver import jwk, key_server

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
            await keys.follow(view)
            await asyncio.wait_for(changed.wait(), 20)
            assert public["x"].encode() in _listeners(view, keys)
            server.answers["/keys"] = (500, {}, b"")
            assert keys.of(KeySource(url=url)) is not None
            await keys.follow(_view(url, "extAuthz"))
            assert keys.of(KeySource(url=url)) is None, "nobody needs them any more"
        finally:
            await keys.close()


def _verifying(rules: TokenRules, keys: Keys, host: str) -> Blob:
    """A listener that verifies tokens with the keys held now."""
    message = listener_pb2.Listener.FromString(listener("front", host, 8080, "front").data)
    (chain,) = message.filter_chains
    manager = hcm.HttpConnectionManager.FromString(chain.filters[0].typed_config.value)
    verified = hcm.HttpFilter(name="envoy.filters.http.jwt_authn", typed_config=packed(jwt_filter(rules, keys.of)))
    filters = [verified, *manager.http_filters]
    del manager.http_filters[:]
    manager.http_filters.extend(filters)
    chain.filters[0].typed_config.Pack(manager)
    return BLOBS.intern(LDS, "front", message)


@pytest.mark.e2e
async def test_a_rotation_reaches_envoy_within_a_refresh_and_a_failing_issuer_changes_nothing(tmp_path: Path) -> None:
    old, new = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    tokens = {
        kid: jwt.encode({"iss": "https://i", "exp": int(time.time()) + 3600}, key, "ES256", {"kid": kid})
        for kid, key in (("old", old), ("new", new))
    }
    clock, authority = FakeClock(), Authority()
    async with (
        key_server() as issuer,
        upstream("app") as port,
        running(authority) as harness,
        running_envoy(tmp_path, authority, harness.port, "DELTA_GRPC") as proxy,
    ):
        url = issuer.serve_json("/keys", {"keys": [jwk(old, "old")]})
        spec = RequestAuthenticationSpec.model_validate({"jwtRules": [{"issuer": "https://i", "jwksUri": url}]})
        rules = compile_token_rules([(PolicyOrigin("default", "a"), spec)])
        changed = asyncio.Event()
        keys = Keys({}, "", clock, changed.set)

        async def held() -> None:
            async with asyncio.timeout(30):
                await changed.wait()
            changed.clear()
            state = (cluster("app"), endpoints("app", port), routes("front", "app"))
            await harness.choose("app-1", *state, _verifying(rules, keys, proxy.host))

        async def answers(kid: str, wanted: int) -> None:
            async with asyncio.timeout(60):
                while await _status(f"http://{proxy.host}:8080/", tokens[kid]) != wanted:  # noqa: ASYNC110 asks Envoy
                    await asyncio.sleep(0.02)

        try:
            await keys.follow(_view(url))
            await held()
            await answers("old", 200)
            assert await _status(f"http://{proxy.host}:8080/", tokens["new"]) == 401

            issuer.answers["/keys"] = (503, {}, b"")
            asked = len(issuer.asked)
            await clock.advance(REFRESH_SECONDS)
            async with asyncio.timeout(30):
                while len(issuer.asked) == asked:  # noqa: ASYNC110 asks the issuer
                    await asyncio.sleep(0.02)
            assert await _status(f"http://{proxy.host}:8080/", tokens["old"]) == 200, "stale keys serve"

            issuer.serve_json("/keys", {"keys": [jwk(new, "new")]})
            await clock.advance(REFRESH_SECONDS)
            await held()
            await answers("new", 200)
            await answers("old", 401)
        finally:
            await keys.close()


async def _status(url: str, token: str) -> int:
    async with httpx.AsyncClient(trust_env=False) as client:
        try:
            return (await client.get(url, headers={"authorization": f"Bearer {token}"})).status_code
        except httpx.TransportError:
            return 0


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
