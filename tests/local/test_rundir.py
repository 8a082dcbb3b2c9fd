import os
from pathlib import Path

import pytest

from lateen.local.rundir import (
    ReplicaInfo,
    RunDirError,
    RunInfo,
    base_directory,
    create_run_dir,
    dead_runs,
    ensure_base,
    live_runs,
    open_state_dir,
    proxy_variable,
)

REPLICA = ReplicaInfo("a-0", "ns", "a", "sidecar", "127.1.1.10", "127.1.1.110", "default", ports={"8080": 8080})


def _info(run_id: str, gateway_url: str = "") -> RunInfo:
    return RunInfo(
        id=run_id,
        pid=1,
        directory="/d",
        mode="loopback",
        control_plane="unix:///x",
        logs="/l",
        gateway_url=gateway_url,
        replicas=(REPLICA,),
    )


def test_a_run_is_found_while_its_lock_is_held(tmp_path: Path) -> None:
    run = create_run_dir(tmp_path / "base")
    run.write_info(_info(run.id))
    assert [found.id for found in live_runs(tmp_path / "base")] == [run.id]
    assert dead_runs(tmp_path / "base") == []
    os.close(run.lock_fd)
    assert live_runs(tmp_path / "base") == []
    assert dead_runs(tmp_path / "base") == [run.path]


def test_run_json_round_trips() -> None:
    info = _info("abc", gateway_url="http://127.1.1.220:8080")
    assert RunInfo.from_json(info.to_json()) == info


def test_half_written_run_json_is_not_a_run(tmp_path: Path) -> None:
    run = create_run_dir(tmp_path / "base")
    (run.path / "run.json").write_text('{"id": "x"')
    assert live_runs(tmp_path / "base") == []
    os.close(run.lock_fd)


def test_nobody_else_can_read_a_run(tmp_path: Path) -> None:
    run = create_run_dir(tmp_path / "base")
    assert run.path.stat().st_mode & 0o777 == 0o700
    os.close(run.lock_fd)
    shared = create_run_dir(tmp_path / "base", traversable=True)
    assert shared.path.stat().st_mode & 0o777 == 0o711
    os.close(shared.lock_fd)


def test_a_base_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "base").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunDirError, match="does not belong to this user"):
        ensure_base(tmp_path / "base")


def test_a_long_tmpdir_is_not_used_for_sockets() -> None:
    assert base_directory({"TMPDIR": "/x" * 60}) == Path(f"/tmp/lateen-{os.getuid()}")
    assert base_directory({"TMPDIR": "/short"}) == Path(f"/short/lateen-{os.getuid()}")


def test_a_second_mesh_of_the_same_directory_gets_a_state_of_its_own(tmp_path: Path) -> None:
    directory = tmp_path / "payments"
    directory.mkdir()
    first = open_state_dir(directory, tmp_path)
    second = open_state_dir(directory, tmp_path)
    assert first.path.name.startswith("payments-")
    assert second.path != first.path
    os.close(first.lock_fd)
    again = open_state_dir(directory, tmp_path)
    assert again.path == first.path
    os.close(second.lock_fd)
    os.close(again.lock_fd)


def test_variables_are_spelt_in_capitals() -> None:
    assert proxy_variable("LATEEN_PROXY", "payments-api-v1") == "LATEEN_PROXY_PAYMENTS_API_V1"


def test_what_cannot_be_written_is_said_with_the_variable_to_set(tmp_path: Path) -> None:
    """A file stands where a directory is wanted: that stops root as well."""
    (tmp_path / "file").touch()
    with pytest.raises(RunDirError, match=r"Not a directory.*set TMPDIR"):
        create_run_dir(tmp_path / "file" / "base")
    with pytest.raises(RunDirError, match=r"Not a directory.*set XDG_STATE_HOME"):
        open_state_dir(tmp_path, tmp_path / "file")


def test_a_directory_may_have_a_very_long_name(tmp_path: Path) -> None:
    long = tmp_path / ("n" * 250)
    long.mkdir()
    state = open_state_dir(long, tmp_path / "state")
    assert state.path.is_dir()
    os.close(state.lock_fd)


def test_a_relative_tmpdir_is_meant_from_here() -> None:
    assert base_directory({"TMPDIR": "x"}).is_absolute()
