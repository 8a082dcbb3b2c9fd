import json
from datetime import timedelta

import pytest

from ca.settings import parse_duration, parse_settings

REQUIRED = ["--state-dir", "/s", "--admin-socket", "/a"]


def test_flags_win_over_the_environment_over_defaults() -> None:
    environ = {"LATEEN_CA_TTL": "1h", "LATEEN_CA_TRUST_DOMAIN": "env.local"}
    settings = parse_settings([*REQUIRED, "--ttl", "10s"], environ)
    assert settings.ttl == timedelta(seconds=10)
    assert settings.trust_domain == "env.local"
    assert settings.address == "127.0.0.1:15013"
    assert json.loads(settings.render())["ttl"] == "10s"


@pytest.mark.parametrize(
    "wrong",
    [
        ["--ttl", "0s"],
        ["--ttl", "91d"],
        ["--ttl", "soon"],
        ["--address", "nowhere"],
        ["--trust-domain", "a/b"],
        ["--log-level", "loud"],
        ["--log-format", "xml"],
    ],
)
def test_wrong_settings_are_refused_with_usage(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        parse_settings([*REQUIRED, *wrong], {})
    assert refused.value.code == 2
    assert "lateen ca-service: error: " in capsys.readouterr().err


def test_missing_settings_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_settings([], {})
    assert "--state-dir, --admin-socket" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("24h", 86400), ("7d", 604800), ("1h30m", 5400)]
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "5", "h", "1h 5m", "-1h", "1.5h", "1y"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)
