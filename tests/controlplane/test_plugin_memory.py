"""What is remembered of trials, and what never is."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lateen.controlplane.envoy_trial import TrialUnavailableError
from lateen.controlplane.plugin_memory import RememberedTrial
from lateen.controlplane.plugin_trial import Verdict
from lateen.controlplane.plugins import LuaServing, Serving, WasmServing

ONE = WasmServing("1" * 64, "/run/1.wasm", "waf", "{}", ours=True)
TWO = replace(ONE, configuration='{"a": 1}')


class Noting:
    """A `Trial` that notes what it is asked, and refuses what it was told to."""

    def __init__(self, refused: Serving | None = None) -> None:
        self.refused = refused
        self.asked: list[list[Serving]] = []

    async def __call__(self, servings: Sequence[Serving]) -> Verdict:
        self.asked.append(list(servings))
        return Verdict("no" if self.refused in servings else "", len(servings))


@pytest.fixture
def envoy(tmp_path: Path) -> Path:
    path = tmp_path / "envoy"
    path.write_bytes(b"an executable")
    return path


def remembering(trial: Noting, envoy: Path, limit: int = 100) -> RememberedTrial:
    return RememberedTrial(trial, envoy.parent / "state" / "trials.json", lambda: envoy, limit)


async def test_what_went_well_is_not_tried_again_by_the_next_run(envoy: Path) -> None:
    trial = Noting()
    assert await remembering(trial, envoy)([ONE, TWO]) == ("", 2)
    elsewhere = replace(ONE, path="/another/run/1.wasm")
    assert await remembering(trial, envoy)([elsewhere, LuaServing("x = 1")]) == ("", 1)
    assert await remembering(trial, envoy)([elsewhere, TWO, LuaServing("x = 1")]) == ("", 0)
    assert trial.asked == [[ONE, TWO], [LuaServing("x = 1")]]


@pytest.mark.parametrize(
    "other",
    [
        replace(ONE, digest="2" * 64), replace(ONE, configuration="{} "), replace(ONE, name="x"), replace(ONE, ours=False),
        replace(ONE, env=(("A", "1"),)), replace(ONE, host_env=("A",)), replace(ONE, network=True),
    ],
)  # fmt: skip
async def test_anything_else_is_tried(envoy: Path, other: WasmServing) -> None:
    trial = Noting()
    await remembering(trial, envoy)([ONE])
    await remembering(trial, envoy)([other])
    assert trial.asked == [[ONE], [other]]


async def test_of_another_envoy_nothing_is_known(envoy: Path) -> None:
    trial = Noting()
    same = remembering(trial, envoy)
    await same([ONE])
    await asyncio.to_thread(envoy.write_bytes, b"an executable of another build")
    await same([ONE])
    await remembering(trial, envoy)([ONE])
    assert trial.asked == [[ONE], [ONE]]


async def test_failures_are_never_remembered(envoy: Path) -> None:
    trial = Noting(refused=TWO)
    assert await remembering(trial, envoy)([ONE, TWO]) == ("no", 2)
    assert await remembering(trial, envoy)([TWO]) == ("no", 1)
    trial.refused = None
    assert await remembering(trial, envoy)([ONE, TWO]) == ("", 2)
    assert trial.asked == [[ONE, TWO], [TWO], [ONE, TWO]]


async def test_no_more_than_the_limit_and_the_newest_stay(envoy: Path) -> None:
    trial = Noting()
    scripts = [LuaServing(f"x = {number}") for number in range(5)]
    for script in scripts:
        await remembering(trial, envoy, limit=3)([script])
    trial.asked.clear()
    for script in reversed(scripts):
        await remembering(trial, envoy, limit=3)([script])
    assert trial.asked == [[scripts[1]], [scripts[0]]]


@pytest.mark.parametrize("text", ["", "{", '{"a": 1}', "[1, null]"])
async def test_a_damaged_file_is_an_empty_one(envoy: Path, text: str) -> None:
    trial = Noting()
    file = envoy.parent / "state" / "trials.json"
    file.parent.mkdir()
    file.write_text(text)
    for tried in (1, 0):
        assert await remembering(trial, envoy)([ONE]) == ("", tried)
    assert trial.asked == [[ONE]]


async def test_a_disk_that_takes_nothing_does_not_stop_a_plugin(envoy: Path) -> None:
    trial = Noting()
    (envoy.parent / "state").write_text("a file where a directory should be")
    assert await remembering(trial, envoy)([ONE]) == ("", 1)


async def test_without_an_envoy_nothing_can_be_tried(tmp_path: Path) -> None:
    with pytest.raises(TrialUnavailableError):
        await remembering(Noting(), tmp_path / "missing")([ONE])
