"""The whole of it: a real Envoy with ext_authz, over mutual TLS, against the real service, which gets its policies over ADS."""

import asyncio
import contextlib
import json
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from extauthz.policies import WORKLOAD_POLICY
from lateen.envoy_binary import envoy_path
from lateen.envoyapi.lateen.v1alpha1 import workload_pb2
from lateen.wire.transport import Transport
from tests.extauthz import tokens
from tests.extauthz.envoy_config import NAME, PROXY, envoy_config
from tests.fakes.control_plane import DeltaAds, serve_ads, serve_sds
from tests.fakes.pki import TestAuthority
from tests.jwks.keyserver import key_server

pytestmark = pytest.mark.e2e

TARGET = "payments/payments-api"
ORDERS = "spiffe://cluster.local/ns/orders/sa/orders-svc"

CHARGE = {
    "rules": [
        {
            "from": [{"source": {"principals": ["cluster.local/ns/orders/sa/orders-svc"]}}],
            "to": [{"operation": {"methods": ["POST"], "paths": ["/v1/charge"]}}],
            "when": [{"key": "request.headers[x-tenant]", "values": ["acme", "globex"]}],
        }
    ]
}
READONLY = {
    "rules": [
        {
            "from": [{"source": {"requestPrincipals": ["https://auth.corp.com/*"]}}],
            "to": [{"operation": {"methods": ["GET"]}}],
            "when": [{"key": "request.auth.claims[scope]", "values": ["payments:read"]}],
        }
    ]
}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def workload(authentication: dict[str, Any] | None, *policies: dict[str, Any], target: str = TARGET) -> bytes:
    message = workload_pb2.WorkloadPolicy(
        target=target, namespace="payments", service_account="payments", trust_domain="cluster.local"
    )
    for i, spec in enumerate(policies):
        message.authorization_policies.add(
            kind="AuthorizationPolicy",
            namespace="payments",
            name=f"p{i}",
            file="authz.yaml",
            line=i + 1,
            spec_json=json.dumps(spec),
        )
    if authentication is not None:
        message.request_authentications.add(
            kind="RequestAuthentication", namespace="payments", name="jwt", spec_json=json.dumps(authentication)
        )
    return message.SerializeToString()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An application that answers what it received, as JSON."""
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = json.dumps({"path": first.split(" ")[1], "headers": headers}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    writer.close()


@dataclass
class Mesh:
    """Everything running, and how to talk to it."""

    authority: TestAuthority
    ads: DeltaAds
    port: int
    tcp_port: int
    http_port: int
    grpc_ports: list[int]
    arguments: list[list[str]]
    """Of each replica."""
    services: list[asyncio.subprocess.Process]
    folder: Path

    async def call(self, method: str, path: str, *, as_: str | None = None, **headers: str) -> httpx.Response:
        """One request over TLS; with a client certificate of identity `as_` if given."""
        context = ssl.create_default_context(cadata=self.authority.root)
        if as_ is not None:
            pair = self.authority.issue(as_)
            file = self.folder / "client.pem"
            file.write_text(pair.certificate + pair.key)
            context.load_cert_chain(file)
        async with httpx.AsyncClient(verify=context, trust_env=False, timeout=60) as client:
            url = f"https://127.0.0.1:{self.port}{path}"
            extensions = {"sni_hostname": "payments"}
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return await client.request(method, url, headers={"host": "payments", **named}, extensions=extensions)

    @property
    def service(self) -> asyncio.subprocess.Process:
        """The first replica."""
        return self.services[0]

    async def restart(self, replica: int = 0) -> None:
        """Start a replica that has ended."""
        self.services[replica] = await start(self.arguments[replica], self.folder / "extauthz.log")
        await listening(self.grpc_ports[replica])

    async def apply(self, authentication: dict[str, Any] | None, *policies: dict[str, Any]) -> None:
        """Send policies and wait until the service acknowledged them."""
        count = len(self.ads.answers)
        await self.ads.put(TARGET, workload(authentication, *policies))
        await self.ads.wait_for_answer(count + len(self.services))

    async def denial(self, denial_id: str) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            return await client.get(f"http://127.0.0.1:{self.http_port}/v1/denials/{denial_id}")

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            return await client.get(f"http://127.0.0.1:{self.http_port}{path}")


async def start(arguments: list[str], log: Path) -> asyncio.subprocess.Process:
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(*arguments, stdout=output, stderr=output)


async def listening(port: int) -> None:
    async with asyncio.timeout(90):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            return


async def end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


@contextlib.asynccontextmanager
async def running_mesh(folder: Path, *more: str, target: str = TARGET, replicas: int = 1) -> AsyncIterator[Mesh]:
    authority = TestAuthority()
    ads = DeltaAds(WORKLOAD_POLICY)
    ads_server, ads_address = await serve_ads(ads, authority)
    identity = authority.issue("spiffe://cluster.local/ns/istio-system/sa/lateen-extauthz", NAME)
    sds_server = await serve_sds(identity, authority.root, f"{folder}/sds.sock")
    app = await asyncio.start_server(echo, "127.0.0.1", 0)
    port, tcp_port = free_port(), free_port()
    grpc_ports, http_ports = ([free_port() for _ in range(replicas)] for _ in range(2))
    arguments = [
        [
            *(sys.executable, "-m", "extauthz", "--address", f"127.0.0.1:{grpc_port}"),
            *("--http-address", f"127.0.0.1:{http_port}", "--ads-address", ads_address),
            *("--sds-socket", f"{folder}/sds.sock", *more),
        ]
        for grpc_port, http_port in zip(grpc_ports, http_ports, strict=True)
    ]
    config = folder / "envoy.json"
    app_port = app.sockets[0].getsockname()[1]
    config.write_text(
        json.dumps(envoy_config(authority, target, port=port, tcp_port=tcp_port, authz=grpc_ports, app=app_port))
    )
    services = [await start(replica, folder / "extauthz.log") for replica in arguments]
    envoy = await start(
        [str(envoy_path()), "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "error"],
        folder / "envoy.log",
    )
    mesh = Mesh(authority, ads, port, tcp_port, http_ports[0], grpc_ports, arguments, services, folder)
    try:
        for at in (port, *grpc_ports, *http_ports):
            await listening(at)
        await ads.wait_for_answer(replicas)
        yield mesh
    finally:
        for service in mesh.services:
            await end(service)
        await end(envoy)
        app.close()
        await sds_server.stop(None)
        await ads_server.stop(None)


@pytest.mark.parametrize("transport", Transport)
async def test_the_payments_policies(tmp_path: Path, transport: Transport) -> None:
    carried = ("--transport", transport)
    async with (
        key_server() as issuer,
        running_mesh(tmp_path, *carried, "--jwks-override", f"https://auth.corp.com/jwks={issuer.url}/jwks") as mesh,
    ):
        issuer.answers["/jwks"] = (200, {}, tokens.JWKS.encode())
        rule = {"issuer": tokens.ISSUER, "jwksUri": "https://auth.corp.com/jwks", "audiences": ["payments-api"]}
        assert (await mesh.call("GET", "/")).status_code == 403
        await mesh.apply({"jwtRules": [rule]}, {}, CHARGE, READONLY)

        charged = await mesh.call("POST", "/v1/charge", as_=ORDERS, x_tenant="acme")
        assert charged.status_code == 200
        assert charged.json()["headers"]["x-meta-policy"] == "payments/p1"
        for method, path, as_, headers in (
            ("POST", "/v1/charge", "spiffe://cluster.local/ns/orders/sa/other", {"x_tenant": "acme"}),
            ("POST", "/v1/charge", None, {"x_tenant": "acme"}),
            ("POST", "/v1/charges", ORDERS, {"x_tenant": "acme"}),
            ("GET", "/v1/charge", ORDERS, {"x_tenant": "acme"}),
            ("POST", "/v1/charge", ORDERS, {"x_tenant": "initech"}),
            ("POST", "/v1/charge", ORDERS, {}),
            ("GET", "/v1/charge", None, {}),
        ):
            denied = await mesh.call(method, path, as_=as_, **headers)
            assert denied.status_code == 403, (method, path, as_, headers)
            assert denied.text == "RBAC: access denied"

        read = await mesh.call("GET", "/v1/x?access_token=1", authorization=f"Bearer {tokens.token()}")
        assert read.status_code == 401
        read = await mesh.call("GET", "/v1/x?q=1", authorization=f"Bearer {tokens.token()}")
        assert read.status_code == 200
        received = read.json()
        assert "authorization" not in received["headers"]
        assert received["headers"]["x-meta-sub"] == "alice"
        assert json.loads(received["headers"]["x-meta-scope"]) == ["payments:read"]
        in_query = await mesh.call("GET", f"/v1/x?access_token={tokens.token()}&q=1")
        assert in_query.status_code == 200
        assert in_query.json()["path"] == "/v1/x?q=1"

        for status, bad in (
            (403, tokens.token(scope="payments:write")),
            (401, tokens.token(exp=1)),
            (401, tokens.token(iss="https://evil.example")),
            (401, tokens.token(aud="other")),
            (401, tokens.token(tokens.OTHER_KEY)),
            (401, tokens.b64({"alg": "none"}) + "." + tokens.b64(tokens.payload()) + "."),
            (401, "nonsense"),
        ):
            refused = await mesh.call("GET", "/v1/x", authorization=f"Bearer {bad}")
            assert refused.status_code == status, refused.text
            if status == 401:
                assert refused.headers["www-authenticate"].startswith('Bearer realm="https://payments/v1/x", error=')
        assert (await mesh.call("GET", "/v1/x", authorization="Bearer nonsense")).text.startswith(
            "Jwt is not in the form"
        )
        metrics = (await mesh.get("/metrics")).text
        assert 'lateen_jwks_up{uri="https://auth.corp.com/jwks"} 1.0' in metrics
        assert 'lateen_authz_decisions_total{policy="payments/jwt",verdict="unauthenticated"} 8.0' in metrics


async def test_a_denial_can_be_explained_by_its_id_and_tells_the_client_nothing(tmp_path: Path) -> None:
    async with running_mesh(tmp_path) as mesh:
        await mesh.apply(None, CHARGE)
        denied = await mesh.call(
            "GET", "/v1/charge?secret=1", as_=ORDERS, authorization="Bearer s3cr3t", x_tenant="acme"
        )
        assert "payments/p0" not in denied.text + str(denied.headers)
        record = (await mesh.denial(denied.headers["x-lateen-denial"])).json()
        assert record["request"]["principal"] == ORDERS
        assert record["request"]["path"] == "/v1/charge"
        assert record["rules"][0]["position"] == "authz.yaml:1"
        assert record["rules"][0]["failed"][0] == {
            "field": "to[0].operation.methods",
            "attribute": "request.method",
            "expected": ["POST"],
            "negated": False,
            "actual": "GET",
        }
        assert (await mesh.denial("0" * 16)).status_code == 404
        log = (tmp_path / "extauthz.log").read_text()
        assert denied.headers["x-lateen-denial"] in log
        assert "s3cr3t" not in log + json.dumps(record)
        metrics = (await mesh.get("/metrics")).text
        assert 'lateen_authz_decisions_total{policy="none",verdict="deny"} 1.0' in metrics
        assert (await mesh.get("/readyz")).status_code == 200


async def test_audit_and_dry_run_are_in_log_and_metrics_and_decide_nothing(tmp_path: Path) -> None:
    audit = {"action": "AUDIT", "rules": [{"to": [{"operation": {"paths": ["/audited"]}}]}]}
    deny = {"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/tried*"]}}]}]}
    message = workload_pb2.WorkloadPolicy.FromString(workload(None, {"rules": [{}]}, audit, deny))
    message.authorization_policies[2].annotations["istio.io/dry-run"] = "true"
    async with running_mesh(tmp_path) as mesh:
        await mesh.ads.put(TARGET, message.SerializeToString())
        await mesh.ads.wait_for_answer(2)
        for path in ("/", "/audited", "/tried/1", "/tried/2"):
            assert (await mesh.call("GET", path)).status_code == 200
        lines = [json.loads(line) for line in (tmp_path / "extauthz.log").read_text().splitlines()]
        decisions = [line for line in lines if line["event"] == "decision"]
        told = {line["path"]: (line.get("audit"), line.get("dry_run")) for line in decisions}
        assert told == {
            "/audited": ("payments/p1 rule 0", "allow"),
            "/tried/1": (None, "deny by payments/p2 rule 0"),
            "/tried/2": (None, "deny by payments/p2 rule 0"),
        }
        metrics = (await mesh.get("/metrics")).text
        assert 'lateen_authz_audit_matches_total{policy="payments/p1"} 1.0' in metrics
        assert 'lateen_authz_dry_run_decisions_total{policy="payments/p2",verdict="deny"} 2.0' in metrics
        assert 'lateen_authz_decisions_total{policy="payments/p0",verdict="allow"} 4.0' in metrics


async def test_an_issuer_with_a_private_authority_that_answers_late(tmp_path: Path) -> None:
    authority = TestAuthority()
    pair = authority.issue("", "localhost")
    (tmp_path / "issuer.pem").write_text(pair.certificate + pair.key)
    (tmp_path / "ca.pem").write_text(authority.root)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "issuer.pem")
    async with key_server(context) as issuer, running_mesh(tmp_path, "--jwks-ca-file", f"{tmp_path}/ca.pem") as mesh:
        await mesh.apply({"jwtRules": [{"issuer": tokens.ISSUER, "jwksUri": f"{issuer.url}/jwks"}]}, {"rules": [{}]})
        refused = await mesh.call("GET", "/", authorization=f"Bearer {tokens.token()}")
        assert (refused.status_code, refused.text) == (401, "Jwks remote fetch is failed")
        record = (await mesh.denial(refused.headers["x-lateen-denial"])).json()
        assert record["reason"] == "Jwks remote fetch is failed; status 404"
        assert (await mesh.call("GET", "/")).status_code == 200
        issuer.answers["/jwks"] = (200, {}, tokens.JWKS.encode())
        async with asyncio.timeout(60):
            while (await mesh.call("GET", "/", authorization=f"Bearer {tokens.token()}")).status_code != 200:  # noqa: ASYNC110 - the next attempt is awaited
                await asyncio.sleep(0.05)
        (source,) = (await mesh.get("/v1/keys")).json()["sources"]
        assert (source["uri"], source["keys"] > 0, source["failures"]) == (f"{issuer.url}/jwks", True, 0)


async def test_claims_become_headers_that_clients_cannot_forge(tmp_path: Path) -> None:
    rule = {
        "issuer": tokens.ISSUER,
        "jwks": tokens.JWKS,
        "forwardOriginalToken": True,
        "outputPayloadToHeader": "x-payload",
        "outputClaimToHeaders": [{"header": "x-sub", "claim": "sub"}, {"header": "x-role", "claim": "role.name"}],
    }
    gate = {"rules": [{"when": [{"key": "request.headers[x-role]", "values": ["admin"]}]}]}
    async with running_mesh(tmp_path) as mesh:
        await mesh.apply({"jwtRules": [rule]}, {"rules": [{}]})
        forged = await mesh.call("GET", "/", x_sub="root", x_role="admin", x_payload="e30")
        assert not {"x-sub", "x-role", "x-payload"} & set(forged.json()["headers"])
        token = tokens.token(role={"name": "dev"})
        real = (await mesh.call("GET", "/", authorization=f"Bearer {token}", x_sub="root")).json()["headers"]
        assert (real["x-sub"], real["x-role"], real["x-payload"]) == ("alice", "dev", token.split(".")[1])
        assert real["authorization"] == f"Bearer {token}"
        await mesh.apply({"jwtRules": [rule]}, gate)
        assert (await mesh.call("GET", "/", x_role="admin")).status_code == 403
        assert (await mesh.call("GET", "/", authorization=f"Bearer {token}", x_role="admin")).status_code == 403
        admin = tokens.token(role={"name": "admin"})
        assert (await mesh.call("GET", "/", authorization=f"Bearer {admin}")).status_code == 200


async def test_what_cannot_be_decided_is_denied(tmp_path: Path) -> None:
    async with running_mesh(tmp_path) as mesh:
        await mesh.apply(None, {"rules": [{}]})
        assert (await mesh.call("GET", "/")).status_code == 200
        # a policy that cannot be compiled: refused with the reason, and everything to its workload is denied
        await mesh.apply(None, {"rules": [{}]}, {"rules": [{"when": [{"key": "no.such", "values": ["x"]}]}]})
        assert (
            'payments/p1 rules[0]: when[0].values: unknown attribute "no.such"'
            in mesh.ads.answers[-1].error_detail.message
        )
        assert (await mesh.call("GET", "/")).status_code == 403
        await mesh.apply(None, {"rules": [{}]})
        assert (await mesh.call("GET", "/")).status_code == 200
        # the service is killed: nothing passes unchecked; it comes back with its policies
        mesh.service.kill()
        await mesh.service.wait()
        assert (await mesh.call("GET", "/")).status_code == 403
        await mesh.restart()
        async with asyncio.timeout(90):
            while (await mesh.call("GET", "/")).status_code != 200:  # noqa: ASYNC110 - another process must come up
                await asyncio.sleep(0.05)


async def test_a_target_that_is_not_the_callers_is_denied(tmp_path: Path) -> None:
    async with running_mesh(tmp_path, target="shop/other") as mesh:
        other = workload_pb2.WorkloadPolicy.FromString(workload(None, {"rules": [{}]}, target="shop/other"))
        other.namespace = "shop"
        await mesh.ads.put("shop/other", other.SerializeToString())
        await mesh.ads.wait_for_answer(2)
        denied = await mesh.call("GET", "/")
        assert denied.status_code == 403
        record = (await mesh.denial(denied.headers["x-lateen-denial"])).json()
        assert record["reason"] == f'"{PROXY}" does not stand in front of shop/other'


async def test_tcp_connections_are_decided_too(tmp_path: Path) -> None:
    async with running_mesh(tmp_path) as mesh:

        async def passes() -> bool:
            context = ssl.create_default_context(cadata=mesh.authority.root)
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", mesh.tcp_port, ssl=context, server_hostname="payments"
            )
            try:
                writer.write(b"GET / HTTP/1.1\r\n\r\n")
                return await asyncio.wait_for(reader.read(1), 60) == b"H"
            except ConnectionError:
                return False
            finally:
                writer.close()

        on_port = {"to": [{"operation": {"ports": [str(mesh.tcp_port)]}}]}
        await mesh.apply(None, {"rules": [on_port]})
        assert await passes()
        await mesh.apply(None, {"rules": [{"when": [{"key": "connection.sni", "values": ["payments"]}]}]})
        assert await passes()
        await mesh.apply(None, {"rules": [{"to": [{"operation": {"ports": ["1"]}}]}]})
        assert not await passes()
        await mesh.apply(None, {"rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]})
        assert not await passes()


async def test_reloads_under_load_drop_nothing(tmp_path: Path) -> None:
    async with running_mesh(tmp_path) as mesh:
        await mesh.apply(None, {"rules": [{}]})
        stop = asyncio.Event()
        statuses: list[int] = []

        async def load() -> None:
            while not stop.is_set():
                statuses.append((await mesh.call("GET", "/")).status_code)

        loaders = [asyncio.create_task(load()) for _ in range(4)]
        for i in range(20):
            await mesh.apply(
                None, {"rules": [{}]}, {"action": "DENY", "rules": [{"to": [{"operation": {"paths": [f"/{i}"]}}]}]}
            )
        stop.set()
        await asyncio.gather(*loaders)
        assert set(statuses) == {200}


async def test_sigterm_ends_the_service(tmp_path: Path) -> None:
    async with running_mesh(tmp_path) as mesh:
        mesh.service.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(mesh.service.wait(), 60) == 0
