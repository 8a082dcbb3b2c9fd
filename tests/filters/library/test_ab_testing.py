"""ab-testing."""

import os
import subprocess
import sys
from collections import Counter

import pytest

from filters.library.ab_testing import AbTesting, Variant, hash_of, variant_of
from lateen_filter import ConfigError
from lateen_filter.testing import FilterHostFactory

VARIANTS = [{"name": "old", "weight": 9}, {"name": "new", "weight": 1}]
KEYS = [{"kind": "cookie", "name": "uid"}, {"kind": "header", "name": "x-user"}, {"kind": "principal"}]
CONFIG = {"experiment": "checkout", "variants": VARIANTS, "keys": KEYS}


def _variant(key: str, *weights: int) -> str:
    return variant_of(
        hash_of("checkout", key), [Variant(name=str(place), weight=weight) for place, weight in enumerate(weights)]
    )


def test_hashes_never_change() -> None:
    """As sha256sum gives them: whoever changes them moves users to other variants."""
    assert hash_of("checkout", "alice") == 0xF50CA7138B69413A
    assert hash_of("checkout", "") == 0x258369CC783D33AE
    assert hash_of("other", "alice") == 0xBFA8E34032F12BF7


def test_another_process_with_another_hash_seed_agrees() -> None:
    code = "from filters.library.ab_testing import hash_of; print([hash_of('checkout', str(n)) for n in range(50)])"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert found == {f"{[hash_of('checkout', str(number)) for number in range(50)]}\n"}


def test_shares_are_as_the_weights() -> None:
    found = Counter(_variant(f"user-{number}", 70, 20, 0, 10) for number in range(20_000))
    assert set(found) == {"0", "1", "3"}
    assert abs(found["0"] - 14_000) < 300
    assert abs(found["1"] - 4_000) < 300


def test_growing_a_variant_moves_only_those_it_takes() -> None:
    users = [f"user-{number}" for number in range(5_000)]
    moved = [user for user in users if _variant(user, 90, 10) != _variant(user, 80, 20)]
    assert all(_variant(user, 80, 20) == "1" for user in moved)
    assert abs(len(moved) - 500) < 100


def test_experiments_are_independent() -> None:
    both = sum(variant_of(hash_of("a", str(n)), TWO) == variant_of(hash_of("b", str(n)), TWO) for n in range(10_000))
    assert abs(both - 5_000) < 250


TWO = [Variant(name="0", weight=1), Variant(name="1", weight=1)]


def test_only_those_move_whom_a_growing_variant_takes() -> None:
    """A third beside two of the same size takes from both, and none changes from one to the other; order means nothing."""

    def moves(before: dict[str, int], after: dict[str, int]) -> Counter[tuple[str, str]]:
        old, new = ([Variant(name=name, weight=weight) for name, weight in each.items()] for each in (before, after))
        pairs = [(variant_of(number, old), variant_of(number, new)) for number in range(5_000)]
        return Counter(pair for pair in pairs if pair[0] != pair[1])

    third = moves({"a": 50, "b": 50}, {"a": 40, "b": 40, "c": 20})
    assert set(third) == {("a", "c"), ("b", "c")}
    assert abs(sum(third.values()) - 1_000) < 150
    shrinking = moves({"a": 40, "b": 40, "c": 20}, {"a": 20, "b": 40, "c": 20})
    assert set(shrinking) == {("a", "b"), ("a", "c")}
    assert not moves({"a": 1, "b": 2, "c": 3}, {"c": 300, "b": 200, "d": 0, "a": 100})


def test_variants_never_change() -> None:
    """Whoever changes these moves users."""
    three = [*TWO, Variant(name="2", weight=2)]
    assert "".join(variant_of(number, three) for number in (0, 1, 2, 3, 4, 2**63, 2**64 - 1)) == "1210121"


def test_users_stay_where_they_are(either_host: FilterHostFactory) -> None:
    host = either_host(AbTesting, {**CONFIG, "respond": True, "stickyCookie": {"name": "ab", "maxAgeSeconds": 60}})
    for number in range(20):
        expected = variant_of(
            hash_of("checkout", f"u{number}"), [Variant(name="old", weight=9), Variant(name="new", weight=1)]
        )
        answer = host.request(headers={"x-user": f"u{number}", "x-variant": "forged"})
        assert answer.upstream_request is not None
        assert answer.upstream_request.headers.get_all("x-variant") == [expected]
        assert answer.headers["x-variant"] == expected
        assert answer.headers["set-cookie"] == f"ab={expected}; Path=/; Max-Age=60; HttpOnly; SameSite=Lax; Secure"
    sticky = host.request(headers={"x-user": "u1", "cookie": "a=1; ab=new"})
    assert sticky.headers["x-variant"] == "new"
    assert "set-cookie" not in sticky.headers
    gone = host.request(headers={"x-user": "u1", "cookie": "ab=gone"})
    assert gone.headers["x-variant"] in ("old", "new")
    assert "set-cookie" in gone.headers
    drawn = host.request().headers
    assert drawn["set-cookie"].startswith(f"ab={drawn['x-variant']};")
    for hostile in ("x" * 60_000, "\udcff", '"; ab=new'):
        assert host.request(headers={"x-user": hostile}).status == 200


def test_the_first_key_that_is_there_counts(filter_host: FilterHostFactory) -> None:
    host = filter_host(AbTesting, CONFIG)
    variants = [Variant(name="old", weight=9), Variant(name="new", weight=1)]
    new = next(
        f"u{number}" for number in range(999) if variant_of(hash_of("checkout", f"u{number}"), variants) == "new"
    )
    old = next(
        f"u{number}" for number in range(999) if variant_of(hash_of("checkout", f"u{number}"), variants) == "old"
    )
    identity = next(
        name
        for name in (f"spiffe://td/ns/a/sa/s{n}" for n in range(999))
        if variant_of(hash_of("checkout", name), variants) == "new"
    )
    for headers, peer, expected in (
        ({"cookie": f"uid={new}", "x-user": old}, None, "new"),
        ({"cookie": "other=1", "x-user": new}, None, "new"),
        ({"x-user": old}, identity, "old"),
        ({}, identity, "new"),
    ):
        seen = host.request(headers=headers, peer_identity=peer).upstream_request
        assert seen is not None
        assert seen.headers["x-variant"] == expected


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({**CONFIG, "variants": []}, "variants"),
        ({**CONFIG, "variants": [VARIANTS[0], VARIANTS[0]]}, "name of its own"),
        ({**CONFIG, "variants": [{"name": "a", "weight": 0}]}, "all weights are 0"),
        ({**CONFIG, "variants": [{"name": "a;b", "weight": 1}]}, "no name of a variant"),
        ({**CONFIG, "variants": [{"name": "a", "weight": -1}]}, "weight"),
        ({**CONFIG, "keys": [{"kind": "header"}]}, "needs a name"),
        ({**CONFIG, "keys": [{"kind": "principal", "name": "x"}]}, "has no name"),
        ({**CONFIG, "stickyCookie": {"name": "a b"}}, "no name of a cookie"),
        ({**CONFIG, "stickyCookie": {"name": "a", "path": "/;x"}}, "no path"),
        ({**CONFIG, "experiment": ""}, "experiment"),
        ({**CONFIG, "header": "host"}, "header: host"),
        ({**CONFIG, "keys": [{"kind": "header", "name": "a b"}]}, "name: 'a b'"),
    ],
)
def test_bad_configurations(filter_host: FilterHostFactory, config: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        filter_host(AbTesting, config)
