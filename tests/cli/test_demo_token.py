"""Claims as they are typed on a command line."""

import pytest

from lateen.cli.exits import CommandError, Exit
from lateen.cli.running import parse_claim


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        ("scope=payments:read", ("scope", "payments:read")),
        ("scope=a=b", ("scope", "a=b")),
        ('groups=["a","b"]', ("groups", ["a", "b"])),
        ('realm={"tenant":"acme"}', ("realm", {"tenant": "acme"})),
        ("admin=true", ("admin", True)),
        ("level=-3", ("level", -3)),
        ("name=", ("name", "")),
        ("https://corp/role=x", ("https://corp/role", "x")),
    ],
)
def test_claims(text: str, claim: tuple[str, object]) -> None:
    assert parse_claim(text) == claim


@pytest.mark.parametrize("text", ["scope", "=x", "groups=[a"])
def test_what_is_not_a_claim_is_a_usage_error(text: str) -> None:
    with pytest.raises(CommandError) as error:
        parse_claim(text)
    assert error.value.code is Exit.USAGE
