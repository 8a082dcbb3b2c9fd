import pytest

from lateen.mesh.protocols import Protocol, parse_protocol, port_protocol


@pytest.mark.parametrize(
    ("name", "app_protocol", "expected"),
    [
        ("http", "", Protocol.HTTP),
        ("http-web", "", Protocol.HTTP),
        ("HTTP-web", "", Protocol.HTTP),
        ("http2-x", "", Protocol.HTTP2),
        ("grpc", "", Protocol.GRPC),
        ("grpc-web", "", Protocol.GRPC_WEB),
        ("grpc-web-x", "", Protocol.GRPC_WEB),
        ("grpc-webby", "", Protocol.GRPC),
        ("https", "", Protocol.HTTPS),
        ("tls-x", "", Protocol.TLS),
        ("tcp", "", Protocol.TCP),
        ("mongo", "", Protocol.MONGO),
        ("redis", "", Protocol.REDIS),
        ("mysql", "", Protocol.MYSQL),
        ("udp-dns", "", Protocol.UDP),
        ("web", "", Protocol.UNSUPPORTED),
        ("", "", Protocol.UNSUPPORTED),
        ("httpx", "", Protocol.UNSUPPORTED),
        ("tcp", "http", Protocol.HTTP),
        ("tcp", "kubernetes.io/h2c", Protocol.HTTP2),
        ("http", "kubernetes.io/ws", Protocol.HTTP),
        ("http", "kubernetes.io/wss", Protocol.HTTPS),
        ("http", "example.com/own", Protocol.UNSUPPORTED),
    ],
)
def test_app_protocol_first_then_the_name_up_to_its_dash(name: str, app_protocol: str, expected: Protocol) -> None:
    assert port_protocol(80, name, "TCP", app_protocol) is expected


def test_udp_is_udp_whatever_its_name() -> None:
    assert port_protocol(53, "http", "UDP", "") is Protocol.UDP


@pytest.mark.parametrize("number", [25, 53, 3306, 27017])
def test_servers_that_speak_first_are_not_sniffed(number: int) -> None:
    assert port_protocol(number, "db", "TCP", "") is Protocol.TCP
    assert port_protocol(number + 1, "db", "TCP", "") is Protocol.UNSUPPORTED
    assert port_protocol(number, "http", "TCP", "") is Protocol.HTTP


def test_properties() -> None:
    assert [p for p in Protocol if p.is_http] == [Protocol.HTTP, Protocol.HTTP2, Protocol.GRPC, Protocol.GRPC_WEB]
    assert [p for p in Protocol if p.is_http2] == [Protocol.HTTP2, Protocol.GRPC]
    assert [p for p in Protocol if p.is_tls] == [Protocol.HTTPS, Protocol.TLS]
    assert [p for p in Protocol if p.is_sniffed] == [Protocol.UNSUPPORTED]
    assert parse_protocol("GRPC-Web") is Protocol.GRPC_WEB
