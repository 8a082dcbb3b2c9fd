"""The service without its servers, and the messages it is given."""

import json
from typing import Any

import httpx

from extauthz.check import Checker
from extauthz.denials import Denials
from extauthz.metrics import Metrics
from extauthz.policies import Policies
from lateen.envoyapi.envoy.service.auth.v3 import external_auth_pb2
from lateen.envoyapi.lateen.v1alpha1 import workload_pb2
from lateen.jwks.keeper import KeyKeeper, Timing

TARGET = "ns/app"
PROXY = "spiffe://cluster.local/ns/ns/sa/app"


class Service:
    """A checker with everything around it, without a server."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        timing = Timing(retry_first=0.02, retry_ceiling=0.02, unknown_kid_interval=0.0, wait=0.5)
        self.keeper = KeyKeeper(client, timing=timing)
        self.elapsed = 0.0
        self.policies = Policies(self.keeper.want, lambda: self.elapsed)
        self.denials = Denials(capacity=4)
        self.metrics = Metrics()
        self.checker = Checker(self.policies, self.keeper, self.metrics, self.denials)

    def load(self, *policies: dict[str, Any], authentication: dict[str, Any] | None = None, **more: object) -> None:
        self.policies.take({TARGET: workload(*policies, authentication=authentication, **more)}, [])

    async def check(
        self, request: external_auth_pb2.CheckRequest | bytes, target: str = TARGET, caller: str = PROXY
    ) -> external_auth_pb2.CheckResponse:
        data = request if isinstance(request, bytes) else request.SerializeToString()
        answer = self.checker.check(target, caller, data)
        return external_auth_pb2.CheckResponse.FromString(answer if isinstance(answer, bytes) else await answer)

    async def status(
        self, request: external_auth_pb2.CheckRequest | bytes, target: str = TARGET, caller: str = PROXY
    ) -> int:
        response = await self.check(request, target, caller)
        allowed = response.HasField("ok_response")
        assert allowed == (response.status.code == 0)
        return 200 if allowed else int(response.denied_response.status.code)


def workload(*policies: dict[str, Any], authentication: dict[str, Any] | None = None, **more: object) -> bytes:
    fields: dict[str, Any] = {
        "target": TARGET,
        "namespace": "ns",
        "service_account": "app",
        "trust_domain": "cluster.local",
    }
    fields.update(more)
    message = workload_pb2.WorkloadPolicy(**fields)
    for i, spec in enumerate(policies):
        message.authorization_policies.add(
            kind="AuthorizationPolicy", namespace="ns", name=f"p{i}", spec_json=json.dumps(spec)
        )
    if authentication is not None:
        message.request_authentications.add(
            kind="RequestAuthentication", namespace="ns", name="jwt", spec_json=json.dumps(authentication)
        )
    return message.SerializeToString()


def http(method: str = "GET", path: str = "/", **headers: str) -> external_auth_pb2.CheckRequest:
    request = external_auth_pb2.CheckRequest()
    request.attributes.source.address.socket_address.address = "10.0.0.1"
    found = request.attributes.request.http
    found.method, found.path, found.host, found.scheme = method, path, "app", "http"
    for name, value in headers.items():
        found.headers[name.replace("_", "-")] = value
    return request
