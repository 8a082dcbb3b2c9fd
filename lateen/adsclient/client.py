"""A delta ADS client for our own services: subscribe to one type, acknowledge or refuse what comes, keep the last good state.

The protocol is the sans-IO `Subscription`; `AdsClient` is the pump around it (dial, read, answer, reconnect with jittered backoff).
The state outlives the stream: while the control plane is away the owner keeps what it was given last, and on reconnect the versions
already held are announced (`initial_resource_versions`), so only what changed is sent again.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import grpc
import structlog
from google.protobuf.struct_pb2 import Struct
from google.rpc import status_pb2

from lateen.envoyapi.envoy.config.core.v3 import base_pb2
from lateen.envoyapi.envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2

_INVALID_ARGUMENT = 3
_MAX_ERROR_TEXT = 2000
_MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_STABLE_SECONDS = 10.0

OnResources = Callable[[Mapping[str, bytes], Collection[str]], None]
"""Called with the changed resources (name to encoded message) and the removed names; raises `ResourcesRejected` to refuse some."""


class ResourcesRejected(Exception):  # noqa: N818 - it is an answer of the protocol, not a failure of the program
    """Raised by the owner for the resources it could not use; the rest of the same response counts as accepted."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        """Remember why each named resource was refused."""
        self.reasons = dict(reasons)
        super().__init__("; ".join(f"{name}: {reason}" for name, reason in sorted(self.reasons.items())))


class Identity(Protocol):
    """What the client needs of `lateen.adsclient.tls.SdsIdentity`."""

    async def wait_ready(self) -> None:
        """Return once a certificate is held."""

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Credentials of the certificate held now."""


@dataclass(slots=True)
class Subscription:
    """Every resource of one type over delta ADS, without I/O: responses in, requests out."""

    node: base_pb2.Node
    type_url: str
    on_resources: OnResources
    versions: dict[str, str] = field(default_factory=dict)
    responses: int = 0
    last_error: str = ""

    def first_request(self) -> discovery_pb2.DeltaDiscoveryRequest:
        """Open a stream: who we are, what we want, what we already hold."""
        return discovery_pb2.DeltaDiscoveryRequest(
            node=self.node,
            type_url=self.type_url,
            resource_names_subscribe=["*"],
            initial_resource_versions=self.versions,
        )

    def on_response(self, response: discovery_pb2.DeltaDiscoveryResponse) -> discovery_pb2.DeltaDiscoveryRequest:
        """Hand the change to the owner and answer with an ACK, or with a NACK that says what was wrong with which resource."""
        answer = discovery_pb2.DeltaDiscoveryRequest(type_url=self.type_url, response_nonce=response.nonce)
        if response.type_url != self.type_url:
            answer.type_url = response.type_url
            answer.error_detail.CopyFrom(_error(f"not subscribed to {response.type_url}"))
            return answer
        changed = {r.name: r.resource.value for r in response.resources if r.resource.type_url == self.type_url}
        wrong_type = {r.name: f"is a {r.resource.type_url}" for r in response.resources if r.name not in changed}
        rejected = wrong_type | self._deliver(changed, response.removed_resources)
        for name in response.removed_resources:
            self.versions.pop(name, None)
        for resource in response.resources:
            if resource.name not in rejected:
                self.versions[resource.name] = resource.version
        self.responses += 1
        self.last_error = "; ".join(f"{name}: {reason}" for name, reason in sorted(rejected.items()))
        if rejected:
            answer.error_detail.CopyFrom(_error(self.last_error))
        return answer

    def _deliver(self, changed: Mapping[str, bytes], removed: Collection[str]) -> dict[str, str]:
        try:
            self.on_resources(changed, removed)
        except ResourcesRejected as rejected:
            return rejected.reasons
        except Exception as error:  # noqa: BLE001 - the owner's bug must not end the subscription; it is told to the control plane
            structlog.get_logger().exception("resources could not be taken over", type_url=self.type_url)
            return dict.fromkeys(changed or [self.type_url], f"{type(error).__name__}: {error}")
        return {}


def _error(text: str) -> status_pb2.Status:
    return status_pb2.Status(code=_INVALID_ARGUMENT, message=text[:_MAX_ERROR_TEXT])


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter, between a floor and a ceiling."""

    base: float = 0.2
    factor: float = 2.0
    ceiling: float = 10.0

    def delay(self, attempt: int, random_unit: float) -> float:
        """Seconds to wait before the attempt after `attempt` failures in a row; `random_unit` is in [0, 1)."""
        bound = min(self.ceiling, self.base * self.factor ** min(attempt, 16))
        return self.base / 2 + (bound - self.base / 2) * random_unit


class AdsClient:
    """Keeps one delta ADS subscription alive for as long as `run` runs.

    `synced` is set with the first response ever, `connected` says whether a stream is open now. `server_name` is the DNS name
    expected in the control plane's certificate (its service account's name, see docs/identity.md).
    """

    def __init__(
        self,
        target: str,
        identity: Identity,
        node: base_pb2.Node,
        type_url: str,
        on_resources: OnResources,
        *,
        server_name: str = "lateen-controlplane.istio-system.svc",
        backoff: Backoff | None = None,
    ) -> None:
        """Prepare a client of the control plane at `target`; nothing is dialled before `run`."""
        self._target = target
        self._identity = identity
        self._server_name = server_name
        self._backoff = backoff or Backoff()
        self._log = structlog.get_logger().bind(control_plane=target, type_url=type_url)
        self.subscription = Subscription(node=node, type_url=type_url, on_resources=on_resources)
        self.synced = asyncio.Event()
        self.connected = False

    async def run(self) -> None:
        """Subscribe, and subscribe again when the stream ends, until cancelled."""
        failures = 0
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            reason = await self._one_stream()
            self.connected = False
            failures = 0 if loop.time() - started > _STABLE_SECONDS else failures + 1
            delay = self._backoff.delay(failures, random.random())  # noqa: S311 - jitter, not a secret
            self._log.warning("ads stream ended, keeping the last good state", reason=reason, retry_in=round(delay, 2))
            await asyncio.sleep(delay)

    async def _one_stream(self) -> str:
        """Run one stream to its end; returns why it ended."""
        try:
            await self._identity.wait_ready()
            async with self._channel() as channel:
                stub = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel)
                call = stub.DeltaAggregatedResources()
                try:
                    await self._pump(call)
                finally:
                    call.cancel()
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name.lower()}: {error.details()}"
        except (OSError, ValueError, grpc.RpcError, asyncio.InvalidStateError) as error:
            return f"{type(error).__name__}: {error}"
        return "closed by the control plane"

    def _channel(self) -> grpc.aio.Channel:
        options = [
            ("grpc.ssl_target_name_override", self._server_name),
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            # gRPC servers end connections that ping more often than every 5 minutes ("too_many_pings").
            ("grpc.keepalive_time_ms", 310_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
        ]
        return grpc.aio.secure_channel(self._target, self._identity.channel_credentials(), options=options)

    async def _pump(self, call: "Call") -> None:
        await call.write(self.subscription.first_request())  # returns once it was sent: a control plane is there
        self.connected = True
        self._log.info("ads stream open")
        async for response in call:
            await call.write(self.subscription.on_response(response))
            self.synced.set()


class Call(Protocol):
    """The part of grpc.aio's bidirectional call that is used."""

    async def write(self, request: discovery_pb2.DeltaDiscoveryRequest, /) -> None:
        """Send one request."""

    def __aiter__(self) -> AsyncIterator[discovery_pb2.DeltaDiscoveryResponse]:
        """Iterate the responses."""
        ...

    def cancel(self) -> bool:
        """End the call."""
        ...


def service_node(
    *,
    name: str,
    namespace: str,
    address: str,
    service_account: str,
    version: str = "",
) -> base_pb2.Node:
    """The node of one of our own services: `service~ADDRESS~NAME.NAMESPACE~NAMESPACE.svc.cluster.local`."""
    metadata = Struct()
    metadata.update(
        {
            "NAMESPACE": namespace,
            "NAME": name,
            "WORKLOAD_NAME": service_account,
            "SERVICE_ACCOUNT": service_account,
            "INSTANCE_IPS": address,
            "CLUSTER_ID": "lateen",
            "ISTIO_VERSION": version,
        }
    )
    return base_pb2.Node(
        id=f"service~{address}~{name}.{namespace}~{namespace}.svc.cluster.local",
        cluster=f"{service_account}.{namespace}",
        metadata=metadata,
        user_agent_name="lateen",
    )


async def stop(task: "asyncio.Task[None]") -> None:
    """Cancel a task that runs `AdsClient.run` and wait until it is gone."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
