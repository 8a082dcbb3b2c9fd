"""One subscriber of secrets, without I/O: requests and changes in, responses out; state of the world and delta.

What is not there yet is not answered but awaited: Envoy warms until it comes. What is there is never taken away, so a subscriber
keeps its last good secret whatever happens to the agent's sources.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from ca.sds.secrets import SECRET_TYPE, Entry, SecretTable
from lateen.envoyapi.envoy.service.discovery.v3 import discovery_pb2

MAX_NAMES = 64
_MAX_NAME_CHARACTERS = 4096


class ProtocolError(ValueError):
    """The subscriber broke the protocol or its bounds: end its stream with this message."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The subscriber refused what it was sent."""

    names: tuple[str, ...]
    error: str


@dataclass(slots=True)
class WorldSession:
    """State of the world: every answer holds all wanted secrets that exist."""

    table: SecretTable
    names: tuple[str, ...] = ()
    rejected: Rejected | None = None
    _nonce: int = 0
    _sent: dict[str, str] = field(default_factory=dict)

    def on_request(self, request: discovery_pb2.DiscoveryRequest) -> discovery_pb2.DiscoveryResponse | None:
        """Take a subscription, an ACK or a NACK."""
        _check_type(request.type_url)
        if request.response_nonce and request.response_nonce != str(self._nonce):
            return None  # It answers what we have superseded.
        self.rejected = _rejection(self._sent, request.error_detail.message, told=request.HasField("error_detail"))
        names = tuple(dict.fromkeys(request.resource_names))
        _check_names(names)
        fresh = not request.response_nonce or set(names) - set(self.names)
        self.names = names
        return self._answer(force=bool(fresh))

    def on_change(self) -> discovery_pb2.DiscoveryResponse | None:
        """The table changed."""
        return self._answer(force=False)

    def _answer(self, *, force: bool) -> discovery_pb2.DiscoveryResponse | None:
        entries = _entries(self.table, self.names)
        versions = {entry.name: entry.version for entry in entries}
        if not entries or (versions == self._sent and not force):
            return None
        self._sent = versions
        self._nonce += 1
        response = discovery_pb2.DiscoveryResponse(
            version_info="-".join(versions.values()), type_url=SECRET_TYPE, nonce=str(self._nonce)
        )
        for entry in entries:
            response.resources.add(type_url=SECRET_TYPE, value=entry.data)
        return response


@dataclass(slots=True)
class DeltaSession:
    """Delta: every answer holds only what changed since."""

    table: SecretTable
    rejected: Rejected | None = None
    _nonce: int = 0
    _held: dict[str, str] = field(default_factory=dict)
    _last: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What is wanted."""
        return tuple(self._held)

    def on_request(self, request: discovery_pb2.DeltaDiscoveryRequest) -> discovery_pb2.DeltaDiscoveryResponse | None:
        """Take a subscription, its end, an ACK or a NACK."""
        _check_type(request.type_url)
        self.rejected = _rejection(self._last, request.error_detail.message, told=request.HasField("error_detail"))
        for name in request.resource_names_unsubscribe:
            self._held.pop(name, None)
        for name in request.resource_names_subscribe:
            # Subscribing anew to a name is a wish to be sent it again.
            self._held[name] = request.initial_resource_versions.get(name, "")
        _check_names(self._held)
        return self.on_change()

    def on_change(self) -> discovery_pb2.DeltaDiscoveryResponse | None:
        """The table changed."""
        changed = [entry for entry in _entries(self.table, self._held) if self._held[entry.name] != entry.version]
        if not changed:
            return None
        self._nonce += 1
        self._last = tuple(entry.name for entry in changed)
        response = discovery_pb2.DeltaDiscoveryResponse(type_url=SECRET_TYPE, nonce=str(self._nonce))
        for entry in changed:
            self._held[entry.name] = entry.version
            added = response.resources.add(name=entry.name, version=entry.version)
            added.resource.type_url = SECRET_TYPE
            added.resource.value = entry.data
        return response


def _entries(table: SecretTable, names: Iterable[str]) -> list[Entry]:
    return [entry for entry in map(table.get, names) if entry is not None]


def _rejection(names: Iterable[str], error: str, *, told: bool) -> Rejected | None:
    return Rejected(tuple(names), error[:1000]) if told else None


def _check_type(type_url: str) -> None:
    if type_url not in {"", SECRET_TYPE}:
        raise ProtocolError(f"only {SECRET_TYPE} is served here")


def _check_names(names: Iterable[str]) -> None:
    names = tuple(names)
    if len(names) > MAX_NAMES or any(len(name) > _MAX_NAME_CHARACTERS for name in names):
        raise ProtocolError(f"at most {MAX_NAMES} secrets, with names of {_MAX_NAME_CHARACTERS} characters")
