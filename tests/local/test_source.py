"""The directory that `lateen up` is given."""

import shutil
import threading
from pathlib import Path

from lateen.local.source import fingerprint
from lateen.mesh.loader import load_paths


def test_a_fingerprint_changes_with_manifests_only(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "er" / "a.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("a: 1\n")
    before = fingerprint(tmp_path)
    assert list(before) == [str(file)]
    (tmp_path / "notes.txt").write_text("no manifest")
    assert fingerprint(tmp_path) == before
    file.write_text("a: 10\n")
    assert fingerprint(tmp_path) != before


def test_directories_may_go_away_while_they_are_read(tmp_path: Path) -> None:
    """As with a checkout of another branch."""
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            for name in "abcdefgh":
                (tmp_path / name / "inside").mkdir(parents=True)
            for name in "abcdefgh":
                shutil.rmtree(tmp_path / name)

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        for _ in range(300):
            assert fingerprint(tmp_path) == {}
            assert load_paths([tmp_path]).diagnostics == ()
    finally:
        stop.set()
        other.join()
