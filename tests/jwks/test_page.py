"""`/v1/keys`: the state of every source, and keys that read back as the very same."""

import json

from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from lateen.fetching import http_client
from lateen.jwks.keeper import KeyKeeper, KeyUri
from lateen.jwks.keys import parse_jwks
from lateen.jwks.page import jwks_of, keys_page
from tests.extauthz.tokens import KEY
from tests.jwks.keyserver import jwk, key_server

EC, ED = ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()


def test_public_keys_read_back_as_they_are() -> None:
    held = parse_jwks(json.dumps({"keys": [jwk(KEY, "a", alg="PS256"), jwk(EC, "b"), jwk(ED)]}))
    again = parse_jwks(json.dumps({"keys": jwks_of(held.keys)}))
    assert [(k.kid, k.algorithms) for k in again.keys] == [(k.kid, k.algorithms) for k in held.keys]
    assert all(a.key == b.key for a, b in zip(again.keys, held.keys, strict=True))
    assert "d" not in jwks_of(held.keys)[0], "nothing private"


async def test_every_source_is_shown_with_its_state() -> None:
    async with key_server() as server, http_client() as client:
        url = server.serve_json("/jwks", {"keys": [jwk(KEY, "k1")]})
        keeper = KeyKeeper(client)
        good, bad = KeyUri(url), KeyUri(server.url + "/none")
        keeper.want([(good, 2.0), (bad, 2.0)])
        for uri in (good, bad):
            await keeper.newer(uri, None)
        first, second = keys_page(keeper)()["sources"]
        assert (first["url"], first["keys"], first["error"]) == (url, 1, "")
        assert first["jwks"][0]["kid"] == "k1"
        assert (second["keys"], second["age"], second["jwks"], second["error"]) == (0, None, [], "status 404")
        await keeper.close()
