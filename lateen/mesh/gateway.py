"""Istio's Gateway (networking.istio.io): what a gateway proxy listens on. Sidecar reuses its TLS settings."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from lateen.mesh.metadata import Resource
from lateen.mesh.spec import Bool, Spec, UInt32, at_most_one


class ServerTLSmode(StrEnum):
    """Istio's ServerTLSSettings.TLSmode."""

    PASSTHROUGH = "PASSTHROUGH"
    SIMPLE = "SIMPLE"
    MUTUAL = "MUTUAL"
    AUTO_PASSTHROUGH = "AUTO_PASSTHROUGH"
    ISTIO_MUTUAL = "ISTIO_MUTUAL"
    OPTIONAL_MUTUAL = "OPTIONAL_MUTUAL"


class TLSProtocol(StrEnum):
    """A TLS protocol version."""

    TLS_AUTO = "TLS_AUTO"
    TLSV1_0 = "TLSV1_0"
    TLSV1_1 = "TLSV1_1"
    TLSV1_2 = "TLSV1_2"
    TLSV1_3 = "TLSV1_3"


class TLSCertificate(Spec):
    """A certificate by files."""

    server_certificate: str | None = None
    private_key: str | None = None
    ca_certificates: str | None = None


class ServerTLSSettings(Spec):
    """TLS of a server."""

    https_redirect: Bool | None = None
    mode: ServerTLSmode = ServerTLSmode.PASSTHROUGH
    server_certificate: str | None = None
    private_key: str | None = None
    ca_certificates: str | None = None
    ca_crl: str | None = None
    credential_name: str | None = None
    credential_names: Annotated[tuple[str, ...], Field(min_length=1, max_length=2)] = ()
    ca_cert_credential_name: str | None = None
    tls_certificates: Annotated[tuple[TLSCertificate, ...], Field(min_length=1, max_length=2)] = ()
    subject_alt_names: tuple[str, ...] = ()
    verify_certificate_spki: tuple[str, ...] = ()
    verify_certificate_hash: tuple[str, ...] = ()
    min_protocol_version: TLSProtocol | None = None
    max_protocol_version: TLSProtocol | None = None
    cipher_suites: tuple[str, ...] = ()
    insecure_skip_verify: Bool | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "ServerTLSSettings":
        at_most_one(self, ("tls_certificates", "credential_names"))
        at_most_one(self, ("credential_name", "credential_names"))
        return self


class ServerPort(Spec):
    """A port of a server."""

    number: UInt32
    protocol: str
    name: str
    target_port: UInt32 | None = None


class Server(Spec):
    """One listener of the gateway."""

    port: ServerPort
    hosts: tuple[str, ...]
    tls: ServerTLSSettings | None = None
    bind: str | None = None
    name: str | None = None
    default_endpoint: str | None = None


class GatewaySpec(Spec):
    """Servers, and the labels of the gateway workloads that serve them."""

    selector: dict[str, str] = {}
    servers: tuple[Server, ...] = ()


class Gateway(Resource):
    """What a gateway proxy listens on."""

    kind_id: ClassVar[str] = "IstioGateway"

    api_version: str = "networking.istio.io/v1"
    kind: str = "Gateway"
    spec: GatewaySpec = GatewaySpec()
