"""The file source on a real directory: what is in force after each kind of edit."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from yaml import safe_load

from lateen.controlplane.files import FileChange, FileSource
from lateen.mesh.loader import load_paths
from lateen.mesh.serviceentry import ServiceEntry
from tests.controlplane.manifests import dns_entry as entry


class Directory:
    """A directory, a source that watches it, and what is in force by the changes it told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.time = 0.0
        self.source = FileSource(path, path / "mesh.yaml", now=self.now)
        self.in_force: dict[str, str] = {}
        self.changes: list[FileChange] = []

    def now(self) -> float:
        return max((f.stat().st_mtime for f in self.path.rglob("*.yaml")), default=0.0) + self.time

    def write(self, name: str, text: str) -> None:
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_text(text)

    def poll(self, age: float = 1.0) -> FileChange | None:
        """Poll when the newest file is `age` seconds old."""
        self.time = age
        change = self.source.poll()
        if change is not None:
            self.changes.append(change)
            for located in change.upserts:
                spec = located.resource
                assert isinstance(spec, ServiceEntry)
                self.in_force[str(spec.key)] = spec.spec.hosts[0]
            for key in change.deletes:
                del self.in_force[str(key)]
        return change


@pytest.fixture
def folder(tmp_path: Path) -> Directory:
    return Directory(tmp_path)


def test_everything_is_there_after_the_first_poll(folder: Directory) -> None:
    folder.write("a.yaml", entry("a", "a.example"))
    folder.write("deep/er/b.yml", entry("b", "b.example"))
    folder.write("c.json", json.dumps(safe_load(entry("c", "c.example"))))
    folder.write("mesh.yaml", "trustDomain: other.example\n")
    folder.write("lateen.yaml", "images: {}\n")
    folder.write(".git/c.yaml", entry("c", "c.example"))
    folder.write("README.md", "not yaml: [")
    change = folder.poll()
    assert folder.in_force == {f"ServiceEntry/shop/{name}": f"{name}.example" for name in "abc"}
    assert change is not None
    assert change.mesh is not None
    assert change.mesh.trust_domain == "other.example"
    assert change.diagnostics == ()


def test_nothing_new_is_nothing(folder: Directory) -> None:
    folder.write("a.yaml", entry("a", "a.example"))
    folder.poll()
    assert folder.poll() is None
    os.utime(folder.path / "a.yaml")
    assert folder.poll() is None, "a touched file with the same content is no change"


def test_edits_additions_and_removals_are_followed(folder: Directory) -> None:
    folder.write("a.yaml", entry("a", "a.example") + "---\n" + entry("b", "b.example"))
    folder.poll()
    folder.write("a.yaml", entry("a", "new.example"))
    folder.write("c.yaml", entry("c", "c.example"))
    folder.poll()
    assert folder.in_force == {"ServiceEntry/shop/a": "new.example", "ServiceEntry/shop/c": "c.example"}


def test_a_file_that_is_not_yaml_any_more_keeps_all_it_gave(folder: Directory) -> None:
    folder.write("a.yaml", entry("a", "a.example") + "---\n" + entry("b", "b.example"))
    folder.poll()
    folder.write("a.yaml", entry("a", "new.example") + "---\nkind: [unclosed\n")
    change = folder.poll()
    assert change is not None
    assert set(folder.in_force) == {"ServiceEntry/shop/a", "ServiceEntry/shop/b"}
    assert [d.invalid for d in change.diagnostics] == [True]
    assert change.broken == (str(folder.path / "a.yaml"),)
    folder.write("a.yaml", entry("a", "mended.example"))
    change = folder.poll()
    assert folder.in_force == {"ServiceEntry/shop/a": "mended.example"}
    assert change is not None
    assert change.diagnostics == ()


def test_an_invalid_document_keeps_its_last_good_version_while_its_neighbours_go_on(folder: Directory) -> None:
    both = entry("a", "a.example") + "---\n" + entry("b", "b.example") + "---\n" + entry("c", "c.example")
    folder.write("a.yaml", both)
    folder.poll()
    broken = entry("a", "a2.example") + "---\n" + entry("b", "b2.example").replace("resolution: DNS", "resolution: NSD")
    folder.write("a.yaml", broken)
    change = folder.poll()
    assert folder.in_force == {"ServiceEntry/shop/a": "a2.example", "ServiceEntry/shop/b": "b.example"}
    assert change is not None
    found = change.diagnostics[0]
    assert (found.resource, found.file, found.line) == ("ServiceEntry/shop/b", str(folder.path / "a.yaml"), 15)


def test_a_removed_file_takes_its_resources_away_when_it_stays_away(folder: Directory) -> None:
    folder.write("a.yaml", entry("a", "a.example"))
    folder.poll()
    (folder.path / "a.yaml").unlink()
    folder.poll()
    assert folder.in_force == {"ServiceEntry/shop/a": "a.example"}
    folder.poll()
    assert folder.in_force == {}


@pytest.mark.parametrize("style", ["in place", "rename over", "backup and new"])
def test_editors_may_save_as_they_like(folder: Directory, style: str) -> None:
    folder.write("a.yaml", entry("a", "a.example"))
    folder.poll()
    path = folder.path / "a.yaml"
    new = entry("a", "b.example")
    if style == "in place":
        path.write_text(new)
    elif style == "rename over":
        folder.write(".a.yaml.swp", new)
        (folder.path / ".a.yaml.swp").replace(path)
    else:
        path.rename(folder.path / "a.yaml~")
        folder.poll()
        path.write_text(new)
    folder.poll()
    assert folder.in_force == {"ServiceEntry/shop/a": "b.example"}
    assert all(not change.deletes for change in folder.changes)


def test_a_change_of_the_same_length_in_the_same_second_is_seen(folder: Directory) -> None:
    folder.write("a.yaml", entry("a", "a.example"))
    folder.poll()
    stat = (folder.path / "a.yaml").stat()
    folder.write("a.yaml", entry("a", "b.example"))
    os.utime(folder.path / "a.yaml", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    folder.poll()
    assert folder.in_force == {"ServiceEntry/shop/a": "b.example"}


def test_a_file_being_written_is_left_alone_until_it_settles(folder: Directory) -> None:
    folder.write("a.yaml", entry("a", "a.example") + "---\n" + entry("b", "b.example"))
    folder.poll()
    folder.write("a.yaml", entry("a", "a.example"))
    assert folder.poll(age=0.01) is None
    folder.write("a.yaml", entry("a", "a.example") + "---\n" + entry("b", "b2.example"))
    assert folder.poll(age=0.01) is None
    folder.poll(age=0.2)
    assert folder.in_force["ServiceEntry/shop/b"] == "b2.example"
    assert all(not change.deletes for change in folder.changes)


def test_a_file_truncated_before_it_is_written_takes_nothing_away(folder: Directory) -> None:
    folder.write("a.yaml", entry("a", "a.example"))
    folder.poll()
    folder.write("a.yaml", "")
    assert folder.poll(age=0.2) is None
    assert folder.poll(age=1.0) is not None
    assert folder.in_force == {}


def test_a_file_that_never_rests_is_read_after_all(folder: Directory) -> None:
    folder.write("a.yaml", entry("a", "a.example"))
    folder.poll()
    for i in range(20):
        folder.write("a.yaml", entry("a", f"b{i}.example"))
        folder.poll(age=0.0)
    assert folder.in_force["ServiceEntry/shop/a"] != "a.example"


def test_a_vanished_directory_takes_nothing_away(folder: Directory, tmp_path: Path) -> None:
    folder.write("a.yaml", entry("a", "a.example"))
    folder.poll()
    away = tmp_path.with_name(tmp_path.name + "-away")
    tmp_path.rename(away)
    change: FileChange | None = None
    for _ in range(3):
        change = folder.poll() or change
    assert folder.in_force == {"ServiceEntry/shop/a": "a.example"}
    assert change is not None
    assert [d.code for d in change.diagnostics] == ["LTN0004"]
    away.rename(tmp_path)
    assert folder.poll() is not None


def test_symlinks_are_followed_and_loops_are_not(folder: Directory, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "a.yaml").write_text(entry("a", "a.example"))
    (folder.path / "linked").symlink_to(elsewhere)
    (elsewhere / "loop").symlink_to(elsewhere)
    (folder.path / "dangling.yaml").symlink_to(elsewhere / "nothing")
    folder.poll()
    assert folder.in_force == {"ServiceEntry/shop/a": "a.example"}


def test_of_a_resource_declared_twice_the_last_file_counts(folder: Directory) -> None:
    folder.write("a.yaml", entry("a", "a.example"))
    folder.write("b.yaml", entry("a", "b.example"))
    change = folder.poll()
    assert folder.in_force == {"ServiceEntry/shop/a": "b.example"}
    assert change is not None
    assert [d.code for d in change.diagnostics] == ["LTN0111"]
    assert folder.poll() is None
    (folder.path / "b.yaml").unlink()
    folder.poll()
    folder.poll()
    assert folder.in_force == {"ServiceEntry/shop/a": "a.example"}


def test_an_invalid_mesh_configuration_keeps_the_last_one(folder: Directory) -> None:
    folder.write("mesh.yaml", "trustDomain: other.example\n")
    folder.poll()
    folder.write("mesh.yaml", "trustDomian: another.example\n")
    change = folder.poll()
    assert folder.source.mesh.trust_domain == "other.example"
    assert change is not None
    assert change.broken == (str(folder.path / "mesh.yaml"),)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda path: path.write_bytes(b"a: \xff\xfe"), "LTN0004"),
        (lambda path: path.write_bytes(b"#" * (8 * 1024 * 1024 + 1)), "LTN0003"),
    ],
    ids=["not utf-8", "too large"],
)
def test_what_cannot_be_read_is_said_once_and_takes_nothing_away(
    folder: Directory, make: Callable[[Path], None], code: str
) -> None:
    folder.write("a.yaml", entry("a", "a.example"))
    folder.poll()
    make(folder.path / "a.yaml")
    change = folder.poll()
    assert change is not None
    assert [d.code for d in change.diagnostics] == [code]
    assert folder.in_force == {"ServiceEntry/shop/a": "a.example"}
    assert folder.poll() is None
    folder.write("a.yaml", entry("a", "a.example"))
    change = folder.poll()
    assert change is not None
    assert change.diagnostics == ()


def test_the_trust_domain_stays_what_the_mesh_started_with(folder: Directory) -> None:
    folder.write("mesh.yaml", "accessLogFile: /dev/stdout\n")
    assert folder.poll() is not None
    folder.write("mesh.yaml", "accessLogFile: ''\ntrustDomain: other.example\n")
    change = folder.poll()
    assert change is not None
    assert change.mesh is not None
    assert (change.mesh.trust_domain, change.mesh.access_log_file) == ("cluster.local", "")
    (warning,) = change.diagnostics
    assert (warning.code, warning.severity.value, warning.line, warning.column) == ("LTN0110", "warning", 2, 1)
    assert "trustDomain cannot change while the mesh runs" in warning.message
    assert change.broken == ()
    folder.write("mesh.yaml", "accessLogFile: ''\n")
    change = folder.poll()
    assert change is not None
    assert change.diagnostics == ()


def test_what_stands_twice_is_told_as_the_loader_tells_it(folder: Directory) -> None:
    folder.write("a.yaml", entry("a", "a.example"))
    folder.write("b.yaml", entry("a", "b.example"))
    change = folder.poll()
    assert change is not None
    assert change.diagnostics == load_paths([folder.path]).diagnostics
    assert [d.code for d in change.diagnostics] == ["LTN0111"]
