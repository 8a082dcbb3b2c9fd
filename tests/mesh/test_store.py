from hypothesis import given
from hypothesis import strategies as st

from lateen.mesh.kinds import ResourceKey
from lateen.mesh.loader import Located
from lateen.mesh.store import Store
from tests.mesh.views import load, service


def _located(name: str, app: str) -> Located:
    return load(service(f"n/{name}", f"{{app: {app}}}")).resources[0]


def _key(name: str) -> ResourceKey:
    return ResourceKey("Service", "n", name)


def test_changes_say_what_happened_to_each_key() -> None:
    first, changes = Store().with_changes([_located("a", "x"), _located("b", "x"), _located("c", "x")])
    assert changes.created == {_key("a"), _key("b"), _key("c")}
    second, changes = first.with_changes(
        [_located("a", "x"), _located("b", "y"), _located("d", "x")], [_key("c"), _key("z")]
    )
    assert changes.unchanged == {_key("a")}
    assert changes.updated == {_key("b")}
    assert changes.created == {_key("d")}
    assert changes.deleted == {_key("c")}
    assert changes.keys == {_key("b"), _key("c"), _key("d")}
    assert [key.name for key in second] == ["a", "b", "d"]
    assert [key.name for key in first] == ["a", "b", "c"], "the old store must stay as it was"


def test_the_last_of_equal_keys_counts() -> None:
    store, _ = Store().with_changes([_located("a", "x"), _located("a", "y")])
    assert store[_key("a")].resource == _located("a", "y").resource


def test_applying_the_same_again_is_no_change() -> None:
    store, _ = Store().with_changes([_located("a", "x")])
    _, changes = store.with_changes([_located("a", "x")])
    assert not changes


@given(st.permutations(["a", "b", "c", "d"]))
def test_the_order_of_changes_does_not_show(names: list[str]) -> None:
    store = Store()
    for name in names:
        store, _ = store.with_changes([_located(name, "x")])
    assert [located.resource.name for located in store.located] == ["a", "b", "c", "d"]
