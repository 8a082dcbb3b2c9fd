"""Two model clients of a session, one for each form of xDS: they hold what they accept and refuse whatever `bad` says."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping

from lateen.controlplane.blobs import Blob
from lateen.controlplane.names import CDS, LDS
from lateen.controlplane.session import DeltaRequest, Event, Push, SotwRequest, StreamSession, Style

Snapshot = Mapping[str, Mapping[str, Blob]]


def blob(type_url: str, name: str, content: str = "1") -> Blob:
    return Blob(type_url, name, f"{content}@{name}", content.encode())


def snapshot(*blobs: Blob) -> Snapshot:
    by_type: dict[str, dict[str, Blob]] = {}
    for each in blobs:
        by_type.setdefault(each.type_url, {})[each.name] = each
    return by_type


class ModelClient:
    """The common part: a wire in order, and a clock."""

    style = Style.DELTA

    def __init__(self, bad: Callable[[Blob], bool] = lambda _: False) -> None:
        self.bad = bad
        self.now = 100.0
        self.held: dict[str, dict[str, Blob]] = {}
        self.asked: dict[str, set[str]] = {}
        self.wire: deque[Push] = deque()
        self.log: list[Push] = []
        self.events: list[Event] = []
        self.says = "a resource is bad"
        self.session = StreamSession(self.style)

    def offer(self, resources: Snapshot, version: str = "v") -> None:
        self.session.offer(resources, version, self.now)

    def pump(self) -> None:
        """Let the server write all it wants to."""
        while (push := self.session.next_push(self.now)) is not None:
            assert push.type_url not in {p.type_url for p in self.wire}, "two pushes of a type in flight"
            self.wire.append(push)
            self.log.append(push)

    def handle(self) -> None:
        """Read and answer the oldest response on the wire."""
        self.answer(self.wire.popleft())

    def ask(self, type_url: str, names: Iterable[str] = (), unsubscribe: Iterable[str] = ()) -> None:
        """Subscribe; no names in the first request of a type are all."""
        raise NotImplementedError

    def answer(self, push: Push) -> None:
        raise NotImplementedError

    def reconnect(self, resources: Snapshot, version: str = "v") -> None:
        raise NotImplementedError

    def quiesce(self) -> None:
        """Let everything run until nothing happens any more, however long that takes."""
        for _ in range(2000):
            self.pump()
            if self.wire:
                self.handle()
            elif (at := self.session.wake_at(self.now)) is not None:
                self.now = at
            else:
                return
        raise AssertionError("the session never comes to rest")

    def _fails(self, push: Push) -> str | None:
        bad = [b.name for b in push.resources if self.bad(b)]
        if not bad:
            return None
        return f"error adding {', '.join(bad)}" if self.says == "names" else self.says


class DeltaModel(ModelClient):
    def ask(self, type_url: str, names: Iterable[str] = (), unsubscribe: Iterable[str] = ()) -> None:
        subscribe, unsubscribe = tuple(names), tuple(unsubscribe)
        first = type_url not in self.asked
        asked = self.asked.setdefault(type_url, set())
        asked.update(subscribe or (["*"] if first else []))
        asked.difference_update(unsubscribe)
        if "*" not in asked:
            held = self.held.get(type_url, {})
            for name in [n for n in held if n not in asked]:
                del held[name]
        self.send(DeltaRequest(type_url, subscribe, unsubscribe))

    def send(self, request: DeltaRequest) -> None:
        self.events += self.session.on_request(request, self.now)

    def answer(self, push: Push) -> None:
        error = self._fails(push)
        held = self.held.setdefault(push.type_url, {})
        if error is None:
            asked = self.asked.get(push.type_url, set())
            held.update({b.name: b for b in push.resources if "*" in asked or b.name in asked})
            for name in push.removed:
                held.pop(name, None)
        self.send(DeltaRequest(push.type_url, nonce=push.nonce, error=error))

    def reconnect(self, resources: Snapshot, version: str = "v") -> None:
        """A new stream, on which the client says what it holds."""
        self.wire.clear()
        self.session = StreamSession(self.style)
        self.offer(resources, version)
        for type_url, names in self.asked.items():
            versions = {name: b.hash for name, b in self.held.get(type_url, {}).items()}
            self.send(DeltaRequest(type_url, tuple(sorted(names)), initial_versions=versions))


class SotwModel(ModelClient):
    style = Style.SOTW

    def __init__(self, bad: Callable[[Blob], bool] = lambda _: False) -> None:
        super().__init__(bad)
        self.nonces: dict[str, str] = {}

    def ask(self, type_url: str, names: Iterable[str] = (), unsubscribe: Iterable[str] = ()) -> None:
        """`names` is the whole list, as the protocol has it."""
        self.asked[type_url] = set(names).difference(unsubscribe) or {"*"}
        held = self.held.get(type_url, {})
        if "*" not in self.asked[type_url]:
            for name in [n for n in held if n not in self.asked[type_url]]:
                del held[name]
        self._send(type_url, None)

    def answer(self, push: Push) -> None:
        self.nonces[push.type_url] = push.nonce
        error = self._fails(push)
        if error is None:
            held = self.held.setdefault(push.type_url, {})
            asked = self.asked[push.type_url]
            if push.type_url in {CDS, LDS} or "*" in asked:
                held.clear()
            held.update({b.name: b for b in push.resources if "*" in asked or b.name in asked})
        self._send(push.type_url, error)

    def reconnect(self, resources: Snapshot, version: str = "v") -> None:
        """A new process on a new stream: state of the world cannot say what it held before."""
        self.wire.clear()
        self.nonces.clear()
        self.held.clear()
        self.session = StreamSession(self.style)
        self.offer(resources, version)
        for type_url in self.asked:
            self._send(type_url, None)

    def _send(self, type_url: str, error: str | None) -> None:
        names = tuple(sorted(self.asked[type_url] - {"*"}))
        request = SotwRequest(type_url, names, nonce=self.nonces.get(type_url, ""), error=error)
        self.events += self.session.on_request(request, self.now)
