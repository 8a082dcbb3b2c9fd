"""The protocol of a service port: what `appProtocol`, a port's name or a ServiceEntry's `protocol` say."""

from enum import StrEnum


class Protocol(StrEnum):
    """The protocol of a service port; UNSUPPORTED means that nobody said it, so it has to be sniffed."""

    HTTP = "HTTP"
    HTTP2 = "HTTP2"
    GRPC = "GRPC"
    GRPC_WEB = "GRPC-Web"
    HTTPS = "HTTPS"
    TLS = "TLS"
    TCP = "TCP"
    UDP = "UDP"
    MONGO = "Mongo"
    REDIS = "Redis"
    MYSQL = "MySQL"
    UNSUPPORTED = "UnsupportedProtocol"

    @property
    def is_http(self) -> bool:
        """Whether a proxy reads requests of this protocol in plaintext."""
        return self in _HTTP

    @property
    def is_http2(self) -> bool:
        """Whether HTTP/2 is spoken for certain."""
        return self in {Protocol.HTTP2, Protocol.GRPC}

    @property
    def is_tls(self) -> bool:
        """Whether the application itself encrypts."""
        return self in {Protocol.HTTPS, Protocol.TLS}

    @property
    def is_sniffed(self) -> bool:
        """Whether a proxy has to find out the protocol."""
        return self is Protocol.UNSUPPORTED


_HTTP = frozenset({Protocol.HTTP, Protocol.HTTP2, Protocol.GRPC, Protocol.GRPC_WEB})
_WORDS = {protocol.value.lower(): protocol for protocol in Protocol if protocol is not Protocol.UNSUPPORTED}
# Kubernetes' own values (KEP-3726).
_APP_PROTOCOLS = {
    "kubernetes.io/h2c": Protocol.HTTP2,
    "kubernetes.io/ws": Protocol.HTTP,
    "kubernetes.io/wss": Protocol.HTTPS,
}
# Servers that speak first would never be sniffed: SMTP, DNS, MySQL, MongoDB.
_SERVER_FIRST = frozenset({25, 53, 3306, 27017})


def parse_protocol(word: str) -> Protocol:
    """A ServiceEntry's or Gateway's `protocol`; unknown words are sniffed."""
    return _WORDS.get(word.lower(), Protocol.UNSUPPORTED)


def port_protocol(number: int, name: str, transport: str, app_protocol: str) -> Protocol:
    """The protocol of a Kubernetes Service's port: `appProtocol` first, then the port's name up to its first dash."""
    if transport.upper() == Protocol.UDP:
        return Protocol.UDP
    word = (app_protocol or name).lower()
    if word in _APP_PROTOCOLS:
        return _APP_PROTOCOLS[word]
    if word == "grpc-web" or word.startswith("grpc-web-"):
        return Protocol.GRPC_WEB
    found = parse_protocol(word.partition("-")[0])
    if found is Protocol.UNSUPPORTED and not app_protocol and number in _SERVER_FIRST:
        return Protocol.TCP
    return found
