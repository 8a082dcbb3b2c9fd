"""The command line: flags over variables over defaults, and what is wrong is said."""

import pytest

from ratelimit.settings import parse_settings

NEEDED = ["--ads-address", "127.0.0.1:15012", "--sds-socket", "/run/sds.sock", "--redis-url", "unix:///run/redis.sock"]


def test_flags_win_over_variables_over_defaults() -> None:
    variables = {"LATEEN_RATELIMIT_ADDRESS": "127.0.0.2:1", "LATEEN_RATELIMIT_HTTP_ADDRESS": "127.0.0.2:2"}
    settings = parse_settings([*NEEDED, "--address", "127.0.0.3:3"], variables)
    assert (settings.address, settings.http_address, settings.log_format) == ("127.0.0.3:3", "127.0.0.2:2", "json")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "--ads-address"),
        (["--address", "nowhere"], "lateen ratelimit-service: error: 'nowhere' is not host:port"),
        (["--redis-url", "http://redis"], "--redis-url begins with none of redis://"),
        (["--workers", "0"], "must be between 1 and"),
        (["--workers", "2", "--redis-url", "memory://"], "memory:// counts in one process"),
        (["--log-level", "loud"], "invalid choice"),
    ],
)
def test_usage_errors(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse_settings([*NEEDED, *arguments] if arguments else [], {})
    assert exit_.value.code == 2
    assert text in capsys.readouterr().err


def test_a_variable_is_held_to_the_choices_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_settings(NEEDED, {"LATEEN_RATELIMIT_TRANSPORT": "smoke"})
    assert "$LATEEN_RATELIMIT_TRANSPORT must be one of wire, grpcio" in capsys.readouterr().err
