import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest

from lateen.local.issuer import (
    ALGORITHMS,
    IssuerError,
    MintRequest,
    discovery,
    ensure_keys,
    key_file,
    mint_token,
    parse_claims,
    public_keys,
)

ISSUER = "https://auth.corp.com"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("issuer") / "keys"
    ensure_keys(directory)
    return directory


def _verify(keys: Path, token: str, audience: str = "payments-api") -> dict[str, Any]:
    header = jwt.get_unverified_header(token)
    (key,) = [k for k in public_keys(keys)["keys"] if k["kid"] == header["kid"]]
    claims: dict[str, Any] = jwt.decode(
        token, jwt.PyJWK(key), algorithms=[key["alg"]], audience=audience, issuer=ISSUER
    )
    return claims


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_verifies_with_the_published_key(keys: Path, algorithm: str) -> None:
    request = MintRequest(ISSUER, "alice", claims={"scope": "payments:read"}, algorithm=algorithm)
    claims = _verify(keys, mint_token(keys, request, datetime.now(UTC)))
    assert (claims["sub"], claims["scope"], claims["aud"]) == ("alice", "payments:read", "payments-api")


def test_an_expired_token_can_be_made_for_tests(keys: Path) -> None:
    token = mint_token(keys, MintRequest(ISSUER, "alice", ttl=timedelta(seconds=-60)), datetime.now(UTC))
    with pytest.raises(jwt.ExpiredSignatureError):
        _verify(keys, token)


def test_published_keys_are_public_only(keys: Path) -> None:
    for key in public_keys(keys)["keys"]:
        assert not {"d", "p", "q", "dp", "dq", "qi"} & key.keys()


def test_private_keys_are_for_the_owner_only_and_survive(keys: Path) -> None:
    before = key_file(keys, "RS256").read_bytes()
    assert stat.S_IMODE(key_file(keys, "RS256").stat().st_mode) == 0o600
    ensure_keys(keys)
    assert key_file(keys, "RS256").read_bytes() == before


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    ensure_keys(tmp_path)
    key_file(tmp_path, "ES256").chmod(0o644)
    with pytest.raises(IssuerError, match="can be read by others"):
        mint_token(tmp_path, MintRequest(ISSUER, "a", algorithm="ES256"), datetime.now(UTC))


def test_alg_none_is_not_signed(keys: Path) -> None:
    with pytest.raises(IssuerError, match="cannot sign with none"):
        mint_token(keys, MintRequest(ISSUER, "a", algorithm="none"), datetime.now(UTC))


def test_claims_are_json_where_they_can_be() -> None:
    assert parse_claims(["scope=payments:read", 'groups=["a","b"]', "n=3", "empty="]) == {
        "scope": "payments:read",
        "groups": ["a", "b"],
        "n": 3,
        "empty": "",
    }
    with pytest.raises(ValueError, match="is not NAME=VALUE"):
        parse_claims(["scope"])


def test_discovery_names_the_keys() -> None:
    document = discovery(ISSUER, "127.0.0.1:8000", 2)
    assert document["issuer"] == ISSUER
    assert document["jwks_uri"] == "http://127.0.0.1:8000/2/jwks.json"
    json.dumps(document)
