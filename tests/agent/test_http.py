import asyncio
from datetime import timedelta

import pytest

from lateen.agent.http import Answer, HttpServer
from lateen.agent.metrics import Sample, render_metrics
from lateen.agent.rotation import State
from tests.agent.harness import loopback_address
from tests.fakes.clock import FakeClock


async def exchange(host: str, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(host, 8080)
    async with asyncio.timeout(10):
        writer.write(request)
        answer = await reader.read()
        writer.close()
        return answer


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /ok?x=1 HTTP/1.1\r\nhost: x\r\n\r\n", b"HTTP/1.1 200 OK"),
        (b"GET /other HTTP/1.1\r\n\r\n", b"HTTP/1.1 404 Not Found"),
        (b"POST /ok HTTP/1.1\r\n\r\n", b"HTTP/1.1 405 Method Not Allowed"),
        (b"nonsense\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", b""),
    ],
)
async def test_answers(request_bytes: bytes, status: bytes) -> None:
    server, host = HttpServer({"/ok": lambda: Answer(200, "fine\n")}), loopback_address()
    await server.start(f"{host}:8080")
    try:
        answer = await exchange(host, request_bytes)
    except ConnectionResetError:
        answer = b""
    assert answer.split(b"\r\n")[0] == status
    await server.close()


def test_metrics_are_istios_where_istio_has_them() -> None:
    now = FakeClock().now()
    samples = [
        Sample("b/two", State.JOINING, None, 0, 3),
        Sample("a/one", State.SERVING, now + timedelta(hours=1), 2, 0),
    ]
    text = render_metrics(samples, now)
    assert text.splitlines()[2:] == [
        'lateen_agent_proxies{state="joining"} 1',
        'lateen_agent_proxies{state="serving"} 1',
        'lateen_agent_proxies{state="refused"} 0',
        'lateen_agent_proxies{state="expired"} 0',
        "# HELP istio_agent_cert_expiry_seconds seconds until the certificate served expires",
        "# TYPE istio_agent_cert_expiry_seconds gauge",
        'istio_agent_cert_expiry_seconds{resource_name="default",proxy="a/one"} 3600',
        "# HELP lateen_agent_certificates_total certificates obtained",
        "# TYPE lateen_agent_certificates_total counter",
        'lateen_agent_certificates_total{proxy="a/one"} 2',
        'lateen_agent_certificates_total{proxy="b/two"} 0',
        "# HELP lateen_agent_certificate_failures_total requests for a certificate that failed",
        "# TYPE lateen_agent_certificate_failures_total counter",
        'lateen_agent_certificate_failures_total{proxy="a/one"} 0',
        'lateen_agent_certificate_failures_total{proxy="b/two"} 3',
    ]
