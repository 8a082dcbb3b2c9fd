import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ca.root import RootError, create_root, encode_root
from ca.store import ROOT_FILE, load_or_create_root, write_private
from tests.ca.builders import DAY, NOW, new_key, self_signed


def test_the_first_start_makes_a_private_root_and_the_second_loads_it(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "ca"
    root, created = load_or_create_root(directory, "cluster.local", NOW)
    again, created_again = load_or_create_root(directory, "cluster.local", NOW)
    assert (created, created_again) == (True, False)
    assert again.anchor == root.anchor
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / ROOT_FILE).stat().st_mode) == 0o600
    assert {path.name for path in directory.iterdir()} == {ROOT_FILE, "lock"}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620])
def test_a_root_that_others_can_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "ca"
    load_or_create_root(directory, "cluster.local", NOW)
    (directory / ROOT_FILE).chmod(mode)
    with pytest.raises(RootError, match=f"mode {mode:04o} lets others .*chmod 600 "):
        load_or_create_root(directory, "cluster.local", NOW)


def test_a_directory_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "ca"
    directory.mkdir(mode=0o755)
    with pytest.raises(RootError, match="chmod 700"):
        load_or_create_root(directory, "cluster.local", NOW)
    assert list(directory.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_root_of_another_user_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "ca"
    load_or_create_root(directory, "cluster.local", NOW)
    os.chown(directory / ROOT_FILE, 12345, -1)
    with pytest.raises(RootError, match="belongs to user 12345"):
        load_or_create_root(directory, "cluster.local", NOW)


def test_a_damaged_root_is_refused_and_never_replaced(tmp_path: Path) -> None:
    directory = tmp_path / "ca"
    load_or_create_root(directory, "cluster.local", NOW)
    path = directory / ROOT_FILE
    damaged = path.read_bytes()[:300]
    path.write_bytes(damaged)
    with pytest.raises(RootError, match=str(path)):
        load_or_create_root(directory, "cluster.local", NOW)
    assert path.read_bytes() == damaged


def test_an_expired_root_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "ca"
    root, _ = load_or_create_root(directory, "cluster.local", NOW)
    with pytest.raises(RootError, match="expired"):
        load_or_create_root(directory, "cluster.local", root.anchor.not_valid_after_utc)
    with pytest.raises(RootError, match="not valid before"):
        load_or_create_root(directory, "cluster.local", NOW - DAY)


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "ca"
    root, _ = load_or_create_root(directory, "cluster.local", NOW)
    key_only = encode_root(root).split(b"-----BEGIN CERTIFICATE-----")[0]
    other = (
        encode_root(create_root("cluster.local", NOW)).removeprefix(key_only).split(b"-----END PRIVATE KEY-----\n")[1]
    )
    write_private(directory / ROOT_FILE, key_only + other)
    with pytest.raises(RootError, match="key does not belong"):
        load_or_create_root(directory, "cluster.local", NOW)
    assert self_signed(new_key(), ca=True) != root.anchor


def test_links_are_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    load_or_create_root(elsewhere, "cluster.local", NOW)
    directory = tmp_path / "ca"
    directory.mkdir(mode=0o700)
    (directory / ROOT_FILE).symlink_to(elsewhere / ROOT_FILE)
    with pytest.raises(RootError, match="cannot be read"):
        load_or_create_root(directory, "cluster.local", NOW)


def test_first_starts_at_the_same_moment_agree_on_one_root(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: load_or_create_root(tmp_path / "ca", "cluster.local", NOW), range(8)))
    assert len({root.anchor for root, _ in results}) == 1
    assert [created for _, created in results].count(True) == 1


def test_a_half_written_file_never_takes_the_place(tmp_path: Path) -> None:
    path = tmp_path / "root.pem"
    write_private(path, b"old")
    with pytest.raises(TypeError):
        write_private(path, "text")  # type: ignore[arg-type]  # the failure in the middle of writing
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["root.pem"]
