"""Plays: >> what a subscriber says, << what it is answered."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ca.sds.secrets import CERTIFICATE, ROOTS, SECRET_TYPE, Certificate, Roots, SecretTable
from ca.sds.session import MAX_NAMES, DeltaSession, ProtocolError, WorldSession
from lateen.envoyapi.envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from lateen.envoyapi.envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)


def certificate(number: int) -> Certificate:
    return Certificate(f"chain {number}".encode(), f"key {number}".encode())


def table_with(number: int = 1) -> SecretTable:
    table = SecretTable()
    table.put(CERTIFICATE, certificate(number))
    table.put(ROOTS, Roots(b"roots"))
    return table


def world(*names: str, nonce: str = "", error: str = "") -> DiscoveryRequest:
    request = DiscoveryRequest(type_url=SECRET_TYPE, resource_names=names, response_nonce=nonce)
    if error:
        request.error_detail.message = error
    return request


def chains(answer: DiscoveryResponse | DeltaDiscoveryResponse | None) -> dict[str, str]:
    """What was sent, by name; the key is always the chain's."""
    assert answer is not None
    if isinstance(answer, DeltaDiscoveryResponse):
        values = [each.resource.value for each in answer.resources]
    else:
        values = [each.value for each in answer.resources]
    secrets = [secret_pb2.Secret.FromString(value) for value in values]
    for secret in secrets:
        if secret.HasField("tls_certificate"):
            pair = secret.tls_certificate
            assert pair.certificate_chain.inline_bytes[6:] == pair.private_key.inline_bytes[4:]
    return {
        secret.name: (
            secret.tls_certificate.certificate_chain.inline_bytes or secret.validation_context.trusted_ca.inline_bytes
        ).decode()
        for secret in secrets
    }


def test_world_subscribe_ack_rotate() -> None:
    table = table_with()
    session = WorldSession(table)
    first = session.on_request(world(CERTIFICATE))
    assert chains(first) == {CERTIFICATE: "chain 1"}
    assert first is not None
    assert session.on_request(world(CERTIFICATE, nonce=first.nonce)) is None
    assert session.on_change() is None
    table.put(CERTIFICATE, certificate(2))
    second = session.on_change()
    assert chains(second) == {CERTIFICATE: "chain 2"}
    assert second is not None
    assert (second.nonce, second.version_info) != (first.nonce, first.version_info)


def test_world_waits_for_what_does_not_exist_yet() -> None:
    table = SecretTable()
    session = WorldSession(table)
    assert session.on_request(world(CERTIFICATE)) is None
    table.put(ROOTS, Roots(b"roots"))
    assert session.on_change() is None
    table.put(CERTIFICATE, certificate(1))
    assert chains(session.on_change()) == {CERTIFICATE: "chain 1"}


def test_world_sends_all_wanted_when_the_names_grow() -> None:
    session = WorldSession(table_with())
    first = session.on_request(world(CERTIFICATE))
    assert first is not None
    assert chains(session.on_request(world(CERTIFICATE, ROOTS, nonce=first.nonce))) == {
        CERTIFICATE: "chain 1",
        ROOTS: "roots",
    }


def test_world_a_nack_is_reported_and_not_answered_until_something_changes() -> None:
    table = table_with()
    session = WorldSession(table)
    first = session.on_request(world(CERTIFICATE))
    assert first is not None
    assert session.on_request(world(CERTIFICATE, nonce=first.nonce, error="bad key")) is None
    assert session.rejected is not None
    assert (session.rejected.names, session.rejected.error) == ((CERTIFICATE,), "bad key")
    assert session.on_change() is None
    table.put(CERTIFICATE, certificate(2))
    second = session.on_change()
    assert chains(second) == {CERTIFICATE: "chain 2"}
    assert second is not None
    session.on_request(world(CERTIFICATE, nonce=second.nonce))
    assert session.rejected is None


def test_world_stale_nonces_are_not_answered() -> None:
    table = table_with()
    session = WorldSession(table)
    session.on_request(world(CERTIFICATE))
    table.put(CERTIFICATE, certificate(2))
    session.on_change()
    assert session.on_request(world(CERTIFICATE, ROOTS, nonce="1")) is None
    assert session.names == (CERTIFICATE,)


def test_delta_sends_only_what_changed() -> None:
    table = table_with()
    session = DeltaSession(table)
    first = session.on_request(
        DeltaDiscoveryRequest(type_url=SECRET_TYPE, resource_names_subscribe=[CERTIFICATE, ROOTS])
    )
    assert chains(first) == {CERTIFICATE: "chain 1", ROOTS: "roots"}
    assert first is not None
    assert session.on_request(DeltaDiscoveryRequest(response_nonce=first.nonce)) is None
    table.put(CERTIFICATE, certificate(2))
    assert chains(session.on_change()) == {CERTIFICATE: "chain 2"}
    assert session.on_change() is None


def test_delta_what_is_held_is_not_sent_again() -> None:
    table = table_with()
    held = table.get(CERTIFICATE)
    assert held is not None
    session = DeltaSession(table)
    request = DeltaDiscoveryRequest(
        resource_names_subscribe=[CERTIFICATE, ROOTS], initial_resource_versions={CERTIFICATE: held.version}
    )
    assert chains(session.on_request(request)) == {ROOTS: "roots"}


def test_delta_unsubscribed_secrets_are_not_sent() -> None:
    table = table_with()
    session = DeltaSession(table)
    session.on_request(DeltaDiscoveryRequest(resource_names_subscribe=[CERTIFICATE]))
    session.on_request(DeltaDiscoveryRequest(resource_names_unsubscribe=[CERTIFICATE]))
    table.put(CERTIFICATE, certificate(2))
    assert session.on_change() is None


def test_delta_a_nack_names_what_was_refused() -> None:
    session = DeltaSession(table_with())
    first = session.on_request(DeltaDiscoveryRequest(resource_names_subscribe=[ROOTS]))
    assert first is not None
    nack = DeltaDiscoveryRequest(response_nonce=first.nonce)
    nack.error_detail.message = "x" * 5000
    assert session.on_request(nack) is None
    assert session.rejected is not None
    assert session.rejected.names == (ROOTS,)
    assert len(session.rejected.error) == 1000


def test_streams_are_bounded_and_serve_secrets_only() -> None:
    table = table_with()
    with pytest.raises(ProtocolError, match="only type"):
        WorldSession(table).on_request(DiscoveryRequest(type_url="type.googleapis.com/other"))
    names = [f"name-{number}" for number in range(MAX_NAMES + 1)]
    with pytest.raises(ProtocolError, match="at most"):
        WorldSession(table).on_request(world(*names))
    with pytest.raises(ProtocolError, match="at most"):
        DeltaSession(table).on_request(DeltaDiscoveryRequest(resource_names_subscribe=names))
    with pytest.raises(ProtocolError, match="at most"):
        WorldSession(table).on_request(world("x" * 5000))


def test_keys_are_in_no_representation_and_no_version() -> None:
    table = table_with()
    entry = table.get(CERTIFICATE)
    assert entry is not None
    assert "key 1" not in repr(certificate(1)) + repr(entry)
    other = SecretTable()
    other.put(CERTIFICATE, Certificate(b"chain 1", b"another key"))
    held = other.get(CERTIFICATE)
    assert held is not None
    assert held.version == entry.version


def test_putting_the_same_secret_again_is_no_change() -> None:
    table, heard = table_with(), list[int]()
    stop = table.listen(lambda: heard.append(1))
    assert not table.put(CERTIFICATE, certificate(1))
    assert table.put(CERTIFICATE, certificate(2))
    stop()
    assert table.put(CERTIFICATE, certificate(3))
    assert heard == [1]


class Play(RuleBasedStateMachine):
    """Any order of rotations, subscriptions, ACKs and NACKs over both protocols: when all is quiet, both hold the newest."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.number = SecretTable(), 0
        self.world, self.delta = WorldSession(self.table), DeltaSession(self.table)
        self.world_nonce, self.names = "", set[str]()
        self.world_holds: dict[str, str] = {}
        self.delta_holds: dict[str, str] = {}

    @rule(name=st.sampled_from(["a", "b"]))
    def rotate(self, name: str) -> None:
        self.number += 1
        self.table.put(name, certificate(self.number))
        self.take(self.world.on_change(), self.delta.on_change())

    @rule(name=st.sampled_from(["a", "b"]))
    def subscribe(self, name: str) -> None:
        self.names.add(name)
        self.take(
            self.world.on_request(world(*sorted(self.names), nonce=self.world_nonce)),
            self.delta.on_request(DeltaDiscoveryRequest(resource_names_subscribe=[name])),
        )

    @precondition(lambda self: self.world_nonce)
    @rule(error=st.sampled_from(["", "bad"]))
    def answer(self, error: str) -> None:
        acknowledged = DeltaDiscoveryRequest(response_nonce="1")
        if error:
            acknowledged.error_detail.message = error
        before = self.world_nonce
        self.take(
            self.world.on_request(world(*sorted(self.names), nonce=before, error=error)),
            self.delta.on_request(acknowledged),
        )
        assert self.world_nonce == before  # an answer alone is never answered

    def take(self, one: DiscoveryResponse | None, other: DeltaDiscoveryResponse | None) -> None:
        if one is not None:
            assert one.nonce != self.world_nonce
            self.world_nonce = one.nonce
            self.world_holds = chains(one)
        if other is not None:
            self.delta_holds |= chains(other)

    @invariant()
    def both_hold_the_newest(self) -> None:
        entries = [entry for entry in map(self.table.get, sorted(self.names)) if entry is not None]
        newest = {
            entry.name: secret_pb2.Secret.FromString(entry.data).tls_certificate.certificate_chain.inline_bytes.decode()
            for entry in entries
        }
        assert self.world_holds == newest
        assert self.delta_holds == newest


TestPlay = Play.TestCase
TestPlay.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
