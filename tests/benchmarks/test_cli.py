"""The command's options, and that one benchmark that fails does not hide the others."""

import json
from pathlib import Path

import pytest

from benchmarks import cli
from benchmarks.report import Section, Table


def test_everything_is_measured_unless_only_is_given() -> None:
    assert cli.parser().parse_args([]).only == list(cli.MODULES)
    assert cli.parser().parse_args(["--only", "decisions"]).only == ["decisions"]
    with pytest.raises(SystemExit):
        cli.parser().parse_args(["--only", "nothing"])


def test_a_failure_is_reported_and_the_rest_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(name: str, *, quick: bool, generator: str) -> Section:
        if name == "decisions":
            raise RuntimeError("no decision today")
        return Section(name, "counting beans", (Table(("beans",), (("12",),)),), data={"beans": 12, "quick": quick})

    monkeypatch.setattr(cli, "_measure", measure)
    file = tmp_path / "result.json"
    assert cli.main(["--quick", "--only", "decisions", "counting", "--json", str(file)]) == 1
    out, err = capsys.readouterr()
    assert "counting beans" in out
    assert "decisions: given up: RuntimeError: no decision today" in err
    written = json.loads(file.read_text())
    assert written["benchmarks"] == {"counting": {"beans": 12, "quick": True}}
    assert written["host"]["Envoy"].count(".") == 2
