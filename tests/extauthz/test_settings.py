"""The command line: flags over variables over defaults, and what is wrong is said."""

import subprocess
import sys

import pytest

from extauthz.settings import parse_settings

NEEDED = ["--ads-address", "127.0.0.1:15012", "--sds-socket", "/run/sds.sock"]


def test_flags_win_over_variables_over_defaults() -> None:
    variables = {
        "LATEEN_EXTAUTHZ_ADDRESS": "127.0.0.2:1",
        "LATEEN_EXTAUTHZ_HTTP_ADDRESS": "127.0.0.2:2",
        "LATEEN_EXTAUTHZ_JWKS_OVERRIDE": "https://a=http://b https://c=http://d",
    }
    settings = parse_settings([*NEEDED, "--address", "127.0.0.3:3"], variables)
    assert (settings.address, settings.http_address, settings.log_level) == ("127.0.0.3:3", "127.0.0.2:2", "info")
    assert settings.jwks_override == (("https://a", "http://b"), ("https://c", "http://d"))


def test_the_first_url_of_an_override_may_hold_an_equals_sign() -> None:
    settings = parse_settings([*NEEDED, "--jwks-override", "https://a/?k=v=http://b/?x=y"], {})
    assert settings.jwks_override == (("https://a/?k=v", "http://b/?x=y"),)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "--ads-address"),
        ([*NEEDED, "--jwks-override", "https://a"], 'jwks override "https://a" must be URL=URL'),
        ([*NEEDED, "--jwks-override", "a=http://b"], "must be URL=URL"),
        ([*NEEDED, "--decision-log", "some"], "invalid choice"),
        ([*NEEDED, "--decision-log-rate", "2"], 'the decision log\'s rate "2" must be between 0 and 1'),
        ([*NEEDED, "--decision-log-rate", "nan"], "must be between 0 and 1"),
        ([*NEEDED, "--http-address", "nowhere"], "lateen extauthz: error: 'nowhere' is not host:port"),
    ],
)
def test_usage_errors(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse_settings(arguments, {})
    assert exit_.value.code == 2
    assert text in capsys.readouterr().err


def test_a_variable_is_held_to_the_choices_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_settings(NEEDED, {"LATEEN_EXTAUTHZ_DECISION_LOG": "some"})
    assert "$LATEEN_EXTAUTHZ_DECISION_LOG must be one of denied, all, sampled" in capsys.readouterr().err


def test_headers_to_redact_are_a_list() -> None:
    settings = parse_settings([*NEEDED, "--redact-header", "X-Key, x-session,"], {})
    assert settings.redact_header == ("x-key", "x-session")


def test_print_config_prints_and_ends() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "extauthz", *NEEDED, "--print-config"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert '"ads_address": "127.0.0.1:15012"' in result.stdout
