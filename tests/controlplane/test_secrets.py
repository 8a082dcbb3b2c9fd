"""Secrets of gateways: served when Envoy would take them, else refused with a reason."""

from __future__ import annotations

import base64

import pytest

from lateen.controlplane.findings import TranslationError
from lateen.controlplane.secrets import server_certificate, trusted_roots
from lateen.mesh.kubernetes import Secret
from lateen.mesh.meshconfig import MeshConfig
from lateen.mesh.view import MeshView
from tests.controlplane.pki import Authority

_AUTHORITY = Authority()
_PAIR, _OTHER = _AUTHORITY.issue(dns="a.example"), _AUTHORITY.issue(dns="b.example")


def _view(name: str, **data: bytes) -> MeshView:
    encoded = {k.replace("_", "."): base64.b64encode(v).decode() for k, v in data.items()}
    secret = Secret.model_validate({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": encoded})
    return MeshView.build([secret], MeshConfig())


def test_certificate_and_key() -> None:
    made = server_certificate(_view("s", tls_crt=_PAIR.certificate, tls_key=_PAIR.key), "default", "s")
    assert made.name == "kubernetes-gateway://default/s"
    assert made.tls_certificate.certificate_chain.inline_bytes == _PAIR.certificate


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"tls_crt": _PAIR.certificate}, "lacks tls.key"),
        ({"tls_key": _PAIR.key}, "lacks tls.crt"),
        ({"tls_crt": _PAIR.certificate, "tls_key": _OTHER.key}, "does not belong to the certificate"),
        ({"tls_crt": b"nonsense", "tls_key": _PAIR.key}, "certificate is not PEM"),
        ({"tls_crt": _PAIR.certificate, "tls_key": b"nonsense"}, "not an unencrypted PEM key"),
    ],
)
def test_what_envoy_would_refuse(data: dict[str, bytes], message: str) -> None:
    with pytest.raises(TranslationError, match=message):
        server_certificate(_view("s", **data), "default", "s")


def test_missing() -> None:
    with pytest.raises(TranslationError, match="secret default/t does not exist"):
        server_certificate(_view("s", tls_crt=_PAIR.certificate), "default", "t")


def test_roots_in_the_secret_or_beside_it() -> None:
    for view in (_view("s", ca_crt=_AUTHORITY.root), _view("s-cacert", cacert=_AUTHORITY.root)):
        made = trusted_roots(view, "default", "s")
        assert made.name == "kubernetes-gateway://default/s-cacert"
        assert made.validation_context.trusted_ca.inline_bytes == _AUTHORITY.root
    with pytest.raises(TranslationError, match=r"no ca\.crt"):
        trusted_roots(_view("s", tls_crt=_PAIR.certificate), "default", "s")
