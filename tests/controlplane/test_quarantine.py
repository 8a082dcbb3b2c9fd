"""One resource that Envoy refuses is set aside; who is to blame is found by what is new."""

from pathlib import Path

import pytest

from lateen.controlplane.blobs import Blob, Blobs
from lateen.controlplane.culprit import culprits, suspects
from lateen.controlplane.names import CDS, RDS
from lateen.controlplane.protos import metadata
from lateen.controlplane.quarantine import Quarantine
from lateen.controlplane.quarantine_memory import QuarantineMemory
from lateen.envoyapi.envoy.config.route.v3 import route_components_pb2, route_pb2
from lateen.mesh.kinds import ResourceKey
from lateen.mesh.loader import Located, load_text

GOOD = ResourceKey("VirtualService", "shop", "good")
BAD = ResourceKey("VirtualService", "shop", "bad")
OTHER = ResourceKey("VirtualService", "shop", "other")


def configuration(*routes: tuple[ResourceKey, str]) -> Blob:
    """A route configuration with one route for each (origin, prefix)."""
    made = [
        route_components_pb2.Route(match=route_components_pb2.RouteMatch(prefix=prefix), metadata=metadata([key]))
        for key, prefix in routes
    ]
    host = route_components_pb2.VirtualHost(name="all", domains=["*"], routes=made)
    return Blobs().intern(RDS, "http_proxy", route_pb2.RouteConfiguration(name="http_proxy", virtual_hosts=[host]))


def test_what_is_new_is_to_blame() -> None:
    accepted = configuration((GOOD, "/a"), (OTHER, "/b"))
    refused = configuration((GOOD, "/a"), (BAD, "/x"), (OTHER, "/b"))
    assert culprits(refused, accepted)[0] == BAD
    assert suspects(refused, accepted) == {BAD}


def test_what_changed_is_to_blame() -> None:
    refused = configuration((GOOD, "/a"), (BAD, "/y"))
    assert suspects(refused, configuration((GOOD, "/a"), (BAD, "/x"))) == {BAD}


def test_of_two_changes_either_may_be_to_blame() -> None:
    refused = configuration((GOOD, "/a2"), (BAD, "/y"))
    assert suspects(refused, configuration((GOOD, "/a"), (BAD, "/x"))) == {GOOD, BAD}
    assert suspects(refused, None) == frozenset()
    assert set(culprits(refused, None)) == {GOOD, BAD}


def test_other_types_blame_their_origins() -> None:
    blob = Blob(CDS, "c", "h", b"", (GOOD,))
    assert culprits(blob, None) == (GOOD,)
    assert suspects(blob, blob) == frozenset()


def test_bytes_that_are_no_message_blame_the_origins() -> None:
    assert culprits(Blob(RDS, "r", "h", b"\xff\xff", (GOOD,)), None) == (GOOD,)


def service(name: str, port: int) -> Located:
    text = (
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{name: http, port: {port}}}]}}\n"
    )
    (located,) = load_text(text, f"{name}.yaml").resources
    return located


BLOB = configuration((BAD, "/"))


def test_the_version_before_stays_until_it_changes() -> None:
    quarantine = Quarantine()
    good, bad, other = service("a", 80), service("a", 81), service("b", 80)
    assert quarantine.admit([good, other]) == (good, other)
    assert quarantine.admit([bad, other]) == (bad, other)
    assert quarantine.hold([bad.resource.key], BLOB, None, "no")
    assert not quarantine.hold([bad.resource.key], BLOB, None, "no"), "once"
    assert quarantine.admit([bad, other]) == (good, other)
    again = service("a", 81)
    assert quarantine.admit([again, other]) == (good, other), "read again, and the same"
    assert [q.located for q in quarantine.refusals] == [again], "it may stand on another line now"
    mended = service("a", 82)
    assert quarantine.admit([mended, other]) == (mended, other)
    assert quarantine.refusals == ()


def test_the_version_before_is_the_last_one_that_was_not_refused() -> None:
    quarantine = Quarantine()
    good, bad, worse = service("a", 80), service("a", 81), service("a", 82)
    quarantine.admit([good])
    quarantine.admit([bad])
    quarantine.hold([bad.resource.key], BLOB, None, "no")
    assert quarantine.admit([bad]) == (good,)
    assert quarantine.admit([worse]) == (worse,)
    assert quarantine.hold([worse.resource.key], BLOB, None, "no")
    assert quarantine.admit([worse]) == (good,)


def test_something_new_that_is_refused_is_left_out_and_forgotten_when_deleted() -> None:
    quarantine = Quarantine()
    other, bad = service("b", 80), service("a", 81)
    quarantine.admit([other])
    quarantine.admit([bad, other])
    quarantine.hold([bad.resource.key], BLOB, None, "no")
    assert quarantine.admit([bad, other]) == (other,)
    assert quarantine.admit([other]) == (other,)
    assert quarantine.refusals == ()
    assert quarantine.admit([bad, other]) == (bad, other), "given anew, tried anew"


def test_what_is_not_there_cannot_be_set_aside() -> None:
    assert not Quarantine().hold([BAD], BLOB, None, "no")


def test_what_every_proxy_has_taken_is_not_to_blame() -> None:
    quarantine = Quarantine()
    service_, bad = service("a", 80), service("b", 80)
    quarantine.admit([service_])
    quarantine.proven()
    quarantine.admit([service_, bad])
    both = [service_.resource.key, bad.resource.key]
    assert quarantine.hold(both, BLOB, None, "no") == (bad.resource.key,)
    assert quarantine.undecided == ()
    assert quarantine.admit([service_, bad]) == (service_,)


def test_what_an_envoy_refused_alone_is_to_blame_whoever_took_it() -> None:
    quarantine = Quarantine()
    bad = service("a", 80)
    quarantine.admit([bad])
    quarantine.proven()
    assert not quarantine.hold([bad.resource.key], BLOB, None, "no")
    assert quarantine.hold([bad.resource.key], BLOB, None, "no", tried=True) == (bad.resource.key,)


def test_what_is_certain_is_a_finding() -> None:
    quarantine = Quarantine()
    good, bad, new = service("a", 80), service("a", 81), service("b", 80)
    quarantine.admit([good])
    quarantine.admit([bad, new])
    quarantine.hold([bad.resource.key], BLOB, None, "no such thing")
    quarantine.hold([new.resource.key], BLOB, None, "nor this")
    first, second = quarantine.findings()
    assert (first.code, first.resource, first.file, first.line) == ("LTN0306", "Service/default/a", "a.yaml", 1)
    assert "no such thing" in first.message
    assert (first.hint, second.hint) == (
        "correct it: until then its version before is used",
        "correct it: until then it is left out",
    )


def test_one_of_several_is_no_finding_yet() -> None:
    quarantine = Quarantine()
    both = [service("a", 80), service("b", 80)]
    quarantine.admit(both)
    assert len(quarantine.hold([each.resource.key for each in both], BLOB, None, "no")) == 2
    assert quarantine.findings() == ()


def test_what_is_set_aside_outlives_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "quarantine.json"
    memory, quarantine = QuarantineMemory(file), Quarantine()
    good, bad, new, other = service("a", 80), service("a", 81), service("b", 80), service("c", 80)
    quarantine.admit([good, other])
    quarantine.admit([bad, new, other])
    quarantine.hold([bad.resource.key], BLOB, None, "no")
    quarantine.hold([new.resource.key], BLOB, None, "nor this")
    memory.save(quarantine)
    assert file.stat().st_mode & 0o777 == 0o600
    after = Quarantine()
    QuarantineMemory(file).restore(after)
    assert [located.resource for located in after.admit([bad, new, other])] == [good.resource, other.resource]
    assert [(q.located, q.refused.name, q.message) for q in after.refusals] == [
        (bad, "http_proxy", "no"),
        (new, "http_proxy", "nor this"),
    ]
    mended = service("a", 82)
    assert after.admit([mended, new, other]) == (mended, other)
    memory.save(after)
    third = Quarantine()
    QuarantineMemory(file).restore(third)
    assert [q.located.resource for q in third.refusals] == [new.resource]


@pytest.mark.parametrize("text", ["", "{", "[1]", "[{}]", '{"a": 1}'])
def test_a_damaged_memory_counts_as_empty(tmp_path: Path, text: str) -> None:
    file = tmp_path / "quarantine.json"
    file.write_text(text)
    quarantine = Quarantine()
    QuarantineMemory(file).restore(quarantine)
    assert quarantine.refusals == ()


def to_blame(bad: set[str], of: int) -> tuple[set[str], int]:
    """Who stays aside when an Envoy refuses whatever contains a new version of `bad`, and after how many pushes that is decided."""
    quarantine = Quarantine()
    new = [service(f"s{number}", 81) for number in range(of)]
    quarantine.admit([service(f"s{number}", 80) for number in range(of)])
    quarantine.proven()
    accepted: set[str] = set()
    for pushes in range(1, 100):
        fresh = {n.resource.key for n in quarantine.admit(new) if n in new and n.resource.key.name not in accepted}
        if any(key.name in bad for key in fresh):
            assert quarantine.hold(fresh, BLOB, None, "no")
            continue
        accepted |= {key.name for key in fresh}
        if not quarantine.let_out():
            return {q.located.resource.key.name for q in quarantine.refusals}, pushes
    raise AssertionError("not decided")


def test_of_several_the_one_to_blame_is_found() -> None:
    assert to_blame({"s1"}, 2)[0] == {"s1"}
    assert to_blame({"s0"}, 2)[0] == {"s0"}
    found, pushes = to_blame({"s13"}, 16)
    assert found == {"s13"}
    assert pushes < 30


def test_several_to_blame_are_all_found() -> None:
    everybody = {f"s{number}" for number in range(8)}
    assert to_blame(everybody, 8)[0] == everybody
    assert to_blame({"s2", "s5"}, 8)[0] == {"s2", "s5"}
