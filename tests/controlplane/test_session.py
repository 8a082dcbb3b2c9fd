"""Sessions as plays: what the client says, what the server sends."""

import dataclasses

import pytest

from lateen.controlplane.names import CDS, ECDS, EDS, LDS, RDS, WORKLOAD_POLICY
from lateen.controlplane.session import (
    GRACE,
    LINGER,
    OPENING,
    Acked,
    DeltaRequest,
    Nacked,
    NotServed,
    Refused,
    StreamSession,
    Style,
    SyncState,
)
from lateen.controlplane.typestate import ProtocolViolation
from tests.controlplane.model_client import DeltaModel, ModelClient, Snapshot, SotwModel, blob, snapshot


def full(content: str = "1", cluster: str = "c") -> Snapshot:
    return snapshot(
        blob(CDS, cluster, content), blob(EDS, cluster, content), blob(LDS, "l", content), blob(RDS, "r", content)
    )


def like_envoy(bad: str = "") -> DeltaModel:
    client = DeltaModel(lambda b: b.data.decode() == bad)
    client.ask(CDS)
    client.ask(LDS)
    client.ask(EDS, ["c"])
    client.ask(RDS, ["r"])
    return client


def order(client: ModelClient, since: int = 0) -> list[str]:
    return [push.type_url.rpartition(".")[2] for push in client.log[since:]]


def test_first_pushes_go_out_in_order() -> None:
    client = like_envoy()
    client.offer(full())
    client.quiesce()
    assert order(client) == ["Cluster", "ClusterLoadAssignment", "Listener", "RouteConfiguration"]
    assert client.session.synced


def test_listeners_and_routes_wait_until_clusters_are_taken_but_not_for_ever() -> None:
    client = like_envoy()
    client.offer(full())
    client.pump()
    assert order(client) == ["Cluster", "ClusterLoadAssignment"]
    assert client.session.wake_at(client.now) == client.now + GRACE
    client.now += GRACE
    client.pump()
    assert order(client)[2:] == ["Listener", "RouteConfiguration"]


def test_an_ack_alone_sends_nothing() -> None:
    client = like_envoy()
    client.offer(full())
    client.quiesce()
    sent = len(client.log)
    client.send(DeltaRequest(CDS, nonce=client.log[0].nonce))
    client.pump()
    assert len(client.log) == sent


def test_a_stale_nonce_is_not_answered() -> None:
    client = like_envoy()
    client.offer(full("1"))
    client.quiesce()
    client.offer(full("2"), "v2")
    client.pump()
    stale = next(p for p in client.log if p.type_url == CDS).nonce
    assert client.session.on_request(DeltaRequest(CDS, nonce=stale, error="old news"), client.now) == []
    assert client.session.holds(CDS, "c") == "1@c"
    client.quiesce()
    assert client.session.holds(CDS, "c") == "2@c"


def test_an_empty_wildcard_is_answered_so_that_envoy_starts() -> None:
    client = DeltaModel()
    client.ask(CDS)
    client.offer({})
    client.pump()
    assert [(p.type_url, p.resources, p.removed) for p in client.log] == [(CDS, (), ())]


def test_nothing_is_sent_before_a_snapshot_is_there() -> None:
    client = like_envoy()
    client.pump()
    assert client.log == []
    assert client.session.status(client.now)[CDS].status is SyncState.NOT_SENT


def test_removed_clusters_go_after_listeners_and_routes() -> None:
    client = like_envoy()
    client.now += OPENING
    client.offer(full())
    client.quiesce()
    sent = len(client.log)
    client.ask(EDS, ["d"])
    client.offer(
        snapshot(*full("2", "d")[CDS].values(), *full("2", "d")[EDS].values(), blob(LDS, "l", "2"), blob(RDS, "r", "2"))
    )
    client.now += OPENING
    client.quiesce()
    removal = next(i for i, p in enumerate(client.log) if p.type_url == CDS and "c" in p.removed)
    routes = next(i for i, p in enumerate(client.log) if i >= sent and p.type_url == RDS)
    assert removal > routes
    assert "c" not in client.held[CDS]


def test_a_cluster_stays_while_a_refused_route_still_names_it() -> None:
    client = like_envoy(bad="2")
    client.now += OPENING
    client.offer(full("1"))
    client.quiesce()
    after = snapshot(blob(CDS, "d"), blob(EDS, "d"), blob(LDS, "l"), blob(RDS, "r", "2"))
    client.offer(after, "v2")
    client.now += OPENING
    client.quiesce()
    assert set(client.held[CDS]) == {"c", "d"}
    assert client.held[RDS]["r"].hash == "1@r"
    mended = snapshot(blob(CDS, "d"), blob(EDS, "d"), blob(LDS, "l"), blob(RDS, "r", "3"))
    client.offer(mended, "v3")
    client.quiesce()
    assert set(client.held[CDS]) == {"d"}


def test_a_changed_cluster_has_its_endpoints_sent_again() -> None:
    client = like_envoy()
    client.offer(full("1"))
    client.quiesce()
    sent = len(client.log)
    client.offer(snapshot(blob(CDS, "c", "2"), blob(EDS, "c", "1"), blob(LDS, "l"), blob(RDS, "r")), "v2")
    client.quiesce()
    assert order(client, sent) == ["Cluster", "ClusterLoadAssignment"]


def test_a_refused_resource_keeps_its_last_good_version_and_is_not_sent_again() -> None:
    client = like_envoy(bad="2")
    client.offer(full("1"))
    client.quiesce()
    client.offer(snapshot(blob(CDS, "c", "1"), blob(EDS, "c", "1"), blob(LDS, "l", "2"), blob(RDS, "r", "1")), "v2")
    client.quiesce()
    assert client.held[LDS]["l"].hash == "1@l"
    assert [e.blob.name for e in client.events if isinstance(e, Refused)] == ["l"]
    assert client.session.status(client.now)[LDS].status is SyncState.NACK
    sent = len(client.log)
    client.offer(snapshot(blob(CDS, "c", "1"), blob(EDS, "c", "1"), blob(LDS, "l", "2"), blob(RDS, "r", "3")), "v3")
    client.quiesce()
    assert order(client, sent) == ["RouteConfiguration"]
    client.offer(snapshot(blob(CDS, "c", "1"), blob(EDS, "c", "1"), blob(LDS, "l", "4"), blob(RDS, "r", "3")), "v4")
    client.quiesce()
    assert client.held[LDS]["l"].hash == "4@l"
    assert client.session.status(client.now)[LDS].status is SyncState.SYNCED


@pytest.mark.parametrize("says", ["something is wrong", "names"])
@pytest.mark.parametrize("model", [DeltaModel, SotwModel])
def test_one_bad_resource_does_not_hold_back_the_others(model: type[ModelClient], says: str) -> None:
    client = model(lambda b: b.data == b"bad")
    client.says = says
    client.ask(CDS)
    good = [blob(CDS, f"cluster-{i}") for i in range(100)]
    client.offer(snapshot(*good, blob(CDS, "culprit", "bad")))
    client.quiesce()
    assert set(client.held[CDS]) == {b.name for b in good}
    assert [e.blob.name for e in client.events if isinstance(e, Refused)] == ["culprit"]
    assert len(client.log) <= (3 if says == "names" else 20)
    assert any(isinstance(e, Nacked) for e in client.events)


def test_a_neighbour_is_not_blamed_when_the_client_asks_anew_for_the_others_in_flight() -> None:
    client = DeltaModel(lambda b: b.data == b"bad")
    client.ask(RDS, ["good", "culprit"])
    client.offer(snapshot(blob(RDS, "good"), blob(RDS, "culprit", "bad")))
    client.pump()
    client.ask(RDS, ["culprit"])
    client.quiesce()
    assert [e.blob.name for e in client.events if isinstance(e, Refused)] == ["culprit"]
    assert set(client.held[RDS]) == {"good"}


def test_while_the_culprit_is_sought_other_changes_still_flow() -> None:
    client = DeltaModel(lambda b: b.data == b"bad")
    client.ask(CDS)
    many = [blob(CDS, f"cluster-{i}", "bad" if i % 2 else "1") for i in range(16)]
    client.offer(snapshot(*many))
    for _ in range(3):
        client.pump()
        client.handle()
    client.offer(snapshot(*many, blob(CDS, "fresh")), "v2")
    client.pump()
    client.handle()
    assert "fresh" in client.held[CDS]
    client.quiesce()
    assert set(client.held[CDS]) == {b.name for b in many if b.data != b"bad"} | {"fresh"}


def test_a_reconnecting_client_is_sent_only_what_it_lacks() -> None:
    client = like_envoy()
    client.offer(full("1"))
    client.quiesce()
    sent = len(client.log)
    client.reconnect(full("1"))
    client.quiesce()
    assert client.log[sent:] == []
    assert client.session.synced
    client.reconnect(snapshot(blob(CDS, "c", "1"), blob(EDS, "c", "1"), blob(LDS, "l", "2")), "v2")
    client.quiesce()
    assert [(p.type_url, [b.name for b in p.resources], p.removed) for p in client.log[sent:]] == [
        (LDS, ["l"], ()),
        (RDS, [], ("r",)),
    ]


def test_nothing_is_removed_while_a_reconnecting_client_is_still_introducing_itself() -> None:
    client = like_envoy()
    client.offer(full("1"))
    client.quiesce()
    client.session = StreamSession(Style.DELTA)
    client.offer(snapshot(blob(CDS, "d"), blob(EDS, "d"), blob(LDS, "l", "2"), blob(RDS, "r", "2")), "v2")
    client.send(DeltaRequest(CDS, ("*",), initial_versions={"c": "1@c"}))
    client.pump()
    assert [p.removed for p in client.log if p.type_url == CDS][-1] == ()


def test_a_name_that_does_not_exist_is_answered_once() -> None:
    client = DeltaModel()
    client.ask(RDS, ["nowhere"])
    client.offer({})
    client.quiesce()
    assert [(p.resources, p.removed) for p in client.log] == [((), ("nowhere",))]
    client.offer(snapshot(blob(RDS, "nowhere")), "v2")
    client.quiesce()
    assert client.held[RDS]["nowhere"].hash == "1@nowhere"


def test_unsubscribing_stops_updates_and_asking_again_sends_again() -> None:
    client = DeltaModel()
    client.ask(EDS, ["a", "b"])
    client.offer(snapshot(blob(EDS, "a"), blob(EDS, "b")))
    client.quiesce()
    client.ask(EDS, unsubscribe=["a"])
    client.offer(snapshot(blob(EDS, "a", "2"), blob(EDS, "b", "2")), "v2")
    client.quiesce()
    assert {n: b.hash for n, b in client.held[EDS].items()} == {"b": "2@b"}
    client.ask(EDS, ["a"])
    client.quiesce()
    assert client.held[EDS]["a"].hash == "2@a"


def test_a_stalled_client_gets_the_newest_state_only() -> None:
    client = DeltaModel()
    client.ask(CDS)
    for i in range(1000):
        client.offer(snapshot(blob(CDS, "c", str(i))), f"v{i}")
        client.pump()
    assert len(client.log) == 1
    client.quiesce()
    assert [p.version for p in client.log] == ["v0", "v999"]


def test_a_gate_holds_back_listeners_and_their_routes_only() -> None:
    client = like_envoy()
    client.offer(full("1"))
    client.quiesce()
    client.session.held_back = frozenset({LDS})
    client.offer(full("2"), "v2")
    client.quiesce()
    assert client.held[CDS]["c"].hash == "2@c"
    assert client.held[LDS]["l"].hash == "1@l"
    assert client.held[RDS]["r"].hash == "1@r"
    client.session.held_back = frozenset()
    client.quiesce()
    assert client.held[LDS]["l"].hash == "2@l"
    assert client.held[RDS]["r"].hash == "2@r"


def test_refused_listeners_are_tried_again_when_a_new_cluster_has_arrived() -> None:
    missing = True
    client = DeltaModel(lambda b: b.type_url == LDS and missing)
    client.ask(CDS)
    client.ask(LDS)
    client.offer(snapshot(blob(LDS, "l")))
    client.quiesce()
    assert client.session.refusals
    missing = False
    client.offer(snapshot(blob(LDS, "l"), blob(CDS, "c")), "v2")
    client.quiesce()
    assert client.held[LDS]["l"].hash == "1@l"


def test_our_own_types_are_served_as_wildcards() -> None:
    client = DeltaModel()
    client.ask(WORKLOAD_POLICY)
    client.offer(snapshot(blob(WORKLOAD_POLICY, "ns/a"), blob(WORKLOAD_POLICY, "ns/b")))
    client.quiesce()
    client.offer(snapshot(blob(WORKLOAD_POLICY, "ns/b", "2")), "v2")
    client.quiesce()
    assert {n: b.hash for n, b in client.held[WORKLOAD_POLICY].items()} == {"ns/b": "2@ns/b"}


def test_a_policy_lingers_until_no_proxy_can_ask_about_it_any_more() -> None:
    client = DeltaModel()
    client.ask(WORKLOAD_POLICY)
    client.offer(snapshot(blob(WORKLOAD_POLICY, "ns/a"), blob(WORKLOAD_POLICY, "ns/b")))
    client.quiesce()
    client.offer(snapshot(blob(WORKLOAD_POLICY, "ns/b", "2")), "v2")
    client.pump()
    client.handle()
    client.now += LINGER - 0.1
    client.pump()
    assert {n: b.hash for n, b in client.held[WORKLOAD_POLICY].items()} == {"ns/a": "1@ns/a", "ns/b": "2@ns/b"}
    assert client.session.synced
    assert client.session.wake_at(client.now) is not None
    client.now += 0.1
    client.pump()
    client.handle()
    assert set(client.held[WORKLOAD_POLICY]) == {"ns/b"}


def test_what_a_plugin_runs_is_never_taken_back_and_what_is_awaited_is_not_told() -> None:
    """A listener that drains still needs it; "there is none" would put the default in its place, which refuses requests."""
    client = DeltaModel()
    client.ask(ECDS, ["a", "b", "c"])
    soon = dataclasses.replace(blob(ECDS, "b", "soon"), awaited=True)
    client.offer(snapshot(blob(ECDS, "a"), soon))
    client.quiesce()
    assert set(client.held[ECDS]) == {"a"}
    assert client.session.synced
    client.offer(snapshot(blob(ECDS, "b")), "v2")
    client.quiesce()
    assert {n: b.hash for n, b in client.held[ECDS].items()} == {"a": "1@a", "b": "1@b"}
    client.offer(snapshot(soon), "v3")
    client.quiesce()
    assert client.held[ECDS]["b"].hash == "1@b"
    assert not any(push.removed for push in client.log)


def test_types_that_are_not_served_are_mentioned_once_and_bounded() -> None:
    session = StreamSession(Style.DELTA)
    assert session.on_request(DeltaRequest("type.googleapis.com/x"), 0.0) == [NotServed("type.googleapis.com/x")]
    assert session.on_request(DeltaRequest("type.googleapis.com/x"), 0.0) == []
    for i in range(7):
        session.on_request(DeltaRequest(f"type.googleapis.com/{i}"), 0.0)
    with pytest.raises(ProtocolViolation):
        session.on_request(DeltaRequest("type.googleapis.com/one-too-many"), 0.0)


def test_too_many_names_end_the_stream() -> None:
    session = StreamSession(Style.DELTA)
    names = tuple(str(i) for i in range(session.limits.names + 1))
    with pytest.raises(ProtocolViolation):
        session.on_request(DeltaRequest(EDS, names), 0.0)
    with pytest.raises(ProtocolViolation):
        StreamSession(Style.DELTA).on_request(DeltaRequest(CDS, initial_versions=dict.fromkeys(names, "1")), 0.0)


def test_an_ack_says_how_many_and_how_long() -> None:
    client = DeltaModel()
    client.ask(CDS)
    client.offer(snapshot(blob(CDS, "a"), blob(CDS, "b")))
    client.pump()
    client.now += 0.25
    client.handle()
    assert client.events[-1] == Acked(CDS, 2, 0.25)


def test_state_of_the_world_repeats_what_is_held_and_drops_what_is_gone() -> None:
    client = SotwModel()
    client.ask(CDS)
    client.ask(EDS, ["a"])
    client.offer(snapshot(blob(CDS, "a"), blob(CDS, "b"), blob(EDS, "a"), blob(EDS, "b")))
    client.quiesce()
    client.offer(snapshot(blob(CDS, "b"), blob(CDS, "c"), blob(EDS, "b")), "v2")
    client.quiesce()
    assert set(client.held[CDS]) == {"b", "c"}
    assert [sorted(b.name for b in p.resources) for p in client.log if p.type_url == CDS] == [
        ["a", "b"],
        ["a", "b", "c"],
        ["b", "c"],
    ]
