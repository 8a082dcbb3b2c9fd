"""What is shown of a proxy's configuration: everything but secrets."""

import json

from lateen.controlplane.blobs import Blob, Blobs
from lateen.controlplane.names import SDS
from lateen.controlplane.snapshot import Snapshot
from lateen.controlplane.status import snapshot_json
from lateen.envoyapi.envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from tests.controlplane.real_envoy import cluster, listener


def test_keys_are_hidden_and_certificates_are_not() -> None:
    secret = secret_pb2.Secret(name="s")
    secret.tls_certificate.private_key.inline_string = "the-key"
    secret.tls_certificate.certificate_chain.inline_string = "the-certificate"
    generic = secret_pb2.Secret(name="g")
    generic.generic_secret.secret.inline_string = "the-token"
    blobs = Blobs()
    shown = json.dumps(snapshot_json(Snapshot.of([blobs.intern(SDS, s.name, s) for s in (secret, generic)])))
    assert "the-certificate" in shown
    assert "the-key" not in shown
    assert "the-token" not in shown


def test_resources_are_shown_with_what_is_packed_in_them() -> None:
    shown = snapshot_json(Snapshot.of([cluster("c"), listener("l", "127.0.0.1", 80, "r")]))
    assert shown["resources"]["CDS"]["c"]["name"] == "c"
    assert shown["resources"]["LDS"]["l"]["filterChains"][0]["filters"][0]["typedConfig"]["statPrefix"] == "in"


def test_what_cannot_be_decoded_is_described() -> None:
    broken = Blob("type.googleapis.com/no.such.Message", "x", "1", b"123")
    shown = snapshot_json(Snapshot.of([broken]))["resources"]["type.googleapis.com/no.such.Message"]["x"]
    assert shown["bytes"] == 3
