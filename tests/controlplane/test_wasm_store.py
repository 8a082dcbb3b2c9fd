"""Modules on disk."""

import os
from pathlib import Path

from lateen.controlplane.wasm_store import ModuleStore


def test_modules_are_kept_by_digest_for_everybody_to_read(tmp_path: Path) -> None:
    store = ModuleStore(tmp_path / "modules")
    digest = store.put(b"one")
    assert store.put(b"one") == digest
    assert store.get(digest) == b"one"
    assert store.path(digest).stat().st_mode & 0o777 == 0o644
    assert store.directory.stat().st_mode & 0o777 == 0o711
    assert [path.name for path in store.directory.iterdir()] == [f"{digest}.wasm"]


def test_a_damaged_module_is_not_used(tmp_path: Path) -> None:
    store = ModuleStore(tmp_path)
    digest = store.put(b"one")
    store.path(digest).write_bytes(b"two")
    assert store.get(digest) is None
    assert not store.path(digest).exists()
    store.path(digest).write_bytes(b"")  # the power failed
    store.put(b"one")
    assert store.get(digest) == b"one"


def test_the_longest_unused_go_first_and_those_in_use_never(tmp_path: Path) -> None:
    store = ModuleStore(tmp_path, max_bytes=250)
    digests = [store.put(bytes([number]) * 100) for number in range(4)]
    for age, digest in enumerate(digests):
        os.utime(store.path(digest), (age, age))
    assert store.prune({digests[0]}) == 2
    assert [store.path(digest).exists() for digest in digests] == [True, False, False, True]
    abandoned, under_way = tmp_path / ".new-1", tmp_path / ".new-2"
    abandoned.write_bytes(b"half a mod")
    os.utime(abandoned, (0, 0))
    under_way.write_bytes(b"half a mod")
    store.prune(())
    assert (abandoned.exists(), under_way.exists()) == (False, True)


def test_what_is_known_survives_and_damage_is_no_reason_to_stop(tmp_path: Path) -> None:
    store = ModuleStore(tmp_path)
    assert store.load_state() == {}
    store.save_state({"a": 1})
    assert store.load_state() == {"a": 1}
    (tmp_path / "plugins.json").write_text("{")
    assert store.load_state() == {}
