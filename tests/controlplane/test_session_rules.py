"""Hypothesis plays both sides of a stream against the rules of xDS."""

from collections.abc import Mapping

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lateen.controlplane.blobs import Blob
from lateen.controlplane.names import CDS, EDS, LDS, RDS
from lateen.controlplane.session import OPENING, DeltaRequest, Refused
from tests.controlplane.model_client import DeltaModel, ModelClient, SotwModel, blob, snapshot

CLUSTERS = ("c0", "c1", "c2", "c3")
NONE = blob("", "", "")
ROUTES = ("r0", "r1", "r2")
LISTENERS = ("l0", "l1")
contents = st.sampled_from(["1", "2", "3", "bad"])


@st.composite
def states(draw: st.DrawFn) -> Mapping[str, Mapping[str, Blob]]:
    """A consistent snapshot: every route names a cluster that is there. Clusters are never bad, the rest may be."""
    clusters = draw(st.lists(st.sampled_from(CLUSTERS), unique=True))
    blobs = [blob(CDS, c, draw(st.sampled_from("123"))) for c in clusters]
    blobs += [blob(EDS, c, draw(contents)) for c in clusters]
    blobs += [blob(LDS, name, draw(contents)) for name in draw(st.lists(st.sampled_from(LISTENERS), unique=True))]
    if clusters:
        routes = draw(st.lists(st.sampled_from(ROUTES), unique=True))
        blobs += [blob(RDS, r, f"{draw(contents)} -> {draw(st.sampled_from(clusters))}") for r in routes]
    return snapshot(*blobs)


def cluster_of(route: Blob) -> str:
    return route.data.decode().rpartition(" ")[2]


class StreamMachine(RuleBasedStateMachine):
    """One client, one server, a wire with any delay between them."""

    model: type[ModelClient] = DeltaModel

    @initialize(first=states(), says=st.sampled_from(["wrong", "names"]))
    def open(self, first: Mapping[str, Mapping[str, Blob]], says: str) -> None:
        self.latest = first
        self.version = 1
        self.client = self.model(lambda b: b.data.startswith(b"bad"))
        self.client.says = says
        self.client.offer(first, "1")
        self.refused: dict[tuple[str, str], str] = {}
        for type_url in (CDS, LDS):
            self.client.ask(type_url)
        self.client.ask(EDS, CLUSTERS)
        self.client.ask(RDS, ROUTES)

    @rule(state=states())
    def change(self, state: Mapping[str, Mapping[str, Blob]]) -> None:
        self.version += 1
        self.latest = state
        self.refused = {k: v for k, v in self.refused.items() if state.get(k[0], {}).get(k[1], NONE).hash == v}
        self.client.offer(state, str(self.version))

    @rule()
    def send(self) -> None:
        """What was refused is not sent again until it changes (or what it may need arrives)."""
        sent = len(self.client.log)
        self.client.pump()
        for push in self.client.log[sent:]:
            for b in push.resources:
                assert self.refused.get((push.type_url, b.name)) != b.hash, f"{b.name} was refused already"

    @precondition(lambda self: bool(self.client.wire))
    @rule()
    def receive(self) -> None:
        events, clusters = len(self.client.events), set(self.client.held.get(CDS, {}))
        self.client.handle()
        for event in self.client.events[events:]:
            if isinstance(event, Refused):
                self.refused[event.type_url, event.blob.name] = event.blob.hash
        if set(self.client.held.get(CDS, {})) - clusters:
            self.refused = {k: v for k, v in self.refused.items() if k[0] not in {LDS, RDS}}

    @rule(seconds=st.sampled_from([0.01, 0.3, OPENING]))
    def wait(self, seconds: float) -> None:
        self.client.now += seconds

    @rule(names=st.lists(st.sampled_from(ROUTES), unique=True, min_size=1))
    def ask_for_routes(self, names: list[str]) -> None:
        self.client.ask(RDS, names)
        for name in names:
            self.refused.pop((RDS, name), None)

    @precondition(lambda self: isinstance(self.client, DeltaModel) and bool(self.client.log))
    @rule(data=st.data())
    def answer_something_old(self, data: st.DataObject) -> None:
        """A stale nonce changes nothing and is not answered."""
        in_flight = {p.nonce for p in self.client.wire}
        old = [p for p in self.client.log if p.nonce not in in_flight]
        if old:
            push = data.draw(st.sampled_from(old))
            before = self.client.session.status(self.client.now)
            error = data.draw(st.sampled_from([None, "late"]))
            assert (
                self.client.session.on_request(
                    DeltaRequest(push.type_url, nonce=push.nonce, error=error), self.client.now
                )
                == []
            )
            assert self.client.session.status(self.client.now) == before

    @rule()
    def reconnect(self) -> None:
        self.refused.clear()
        self.client.reconnect(self.latest, str(self.version))

    @rule()
    def rest(self) -> None:
        """Once all is quiet the client holds the latest of all it asked for, bad resources excepted."""
        self.refused.clear()
        self.client.quiesce()
        for type_url, asked in self.client.asked.items():
            wanted = self.latest.get(type_url, {})
            held = self.client.held.get(type_url, {})
            for name, b in wanted.items():
                if ("*" in asked or name in asked) and not b.data.startswith(b"bad"):
                    assert held[name].hash == b.hash, (type_url, name)
            assert not any(b.data.startswith(b"bad") for b in held.values())
            if type_url in {CDS, LDS} and not self._old_ones_in_use():
                assert set(held) <= set(wanted)
        sent = len(self.client.log)
        self.client.now += 10
        self.client.pump()
        assert len(self.client.log) == sent, "something is sent although nothing has changed"

    def _old_ones_in_use(self) -> bool:
        # Something refused after it was asked for anew may be in use in an older version, for all the server knows.
        if self.client.session.refusals:
            return True
        held = (b for url in (LDS, RDS) for b in self.client.held.get(url, {}).values())
        return any(self.latest.get(b.type_url, {}).get(b.name) is not b for b in held)

    @invariant()
    def every_route_in_use_finds_its_cluster(self) -> None:
        if hasattr(self, "client"):
            clusters = self.client.held.get(CDS, {})
            for route in self.client.held.get(RDS, {}).values():
                assert cluster_of(route) in clusters, "make before break was broken"

    def teardown(self) -> None:
        if hasattr(self, "client"):
            self.rest()


class SotwMachine(StreamMachine):
    model = SotwModel


StreamMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
SotwMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestDelta = StreamMachine.TestCase
TestStateOfTheWorld = SotwMachine.TestCase
