"""The demo application, as a process."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest

from lateen.local.demo_app import Attempts, parse_delay

HOST = f"127.98.{os.getpid() // 250 % 250}.{os.getpid() % 250 + 1}"  # of this process
PORT = 8080


@pytest.fixture(scope="module")
def app(request: pytest.FixtureRequest) -> Iterator["subprocess.Popen[bytes]"]:
    env = {"HOST": HOST, "PORT": str(PORT), "WORKLOAD": "pay", "VERSION": "v1", "REPLICA": "pay-0", "NAMESPACE": "ns"}
    env |= {"PATH": os.environ["PATH"], "http_proxy": f"http://{HOST}:9999", "CHARGE_URL": "http://pay.ns:81/v1/charge"}
    process = subprocess.Popen([sys.executable, "-m", "lateen.local.demo_app"], env=env)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            socket.create_connection((HOST, PORT), timeout=1).close()
            break
        except OSError:
            time.sleep(0.01)
    yield process
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) in {0, -15}, "-15: told to end before it was up"


def _ask(path: str = "/", method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection(HOST, PORT, timeout=30)
    connection.request(method, path, body=body, headers={k.replace("_", "-"): v for k, v in headers.items()})
    answer = connection.getresponse()
    value = json.loads(answer.read())
    connection.close()
    return answer.status, value


@pytest.mark.usefixtures("app")
class TestApp:
    def test_it_says_who_it_is_and_what_it_received(self) -> None:
        status, answer = _ask("/v1/x?y=1", "PUT", b"hello", x_tenant="acme")
        assert status == 200
        assert answer["workload"] == "pay"
        assert answer["version"] == "v1"
        assert answer["replica"] == "pay-0"
        assert answer["method"] == "PUT"
        assert answer["path"] == "/v1/x?y=1"
        assert answer["headers"]["x-tenant"] == "acme"
        assert answer["body_bytes"] == 5

    def test_it_fails_on_request(self) -> None:
        assert _ask(x_app_status="418")[0] == 418

    def test_it_fails_as_often_as_asked_for_one_request_id(self) -> None:
        assert [_ask(x_app_fail_times="2", x_request_id="one")[0] for _ in range(3)] == [503, 503, 200]
        assert _ask(x_app_fail_times="2", x_request_id="two")[0] == 503

    def test_only_the_named_version_fails(self) -> None:
        assert _ask(x_app_status="500", x_app_fail_version="v2")[0] == 200
        assert _ask(x_app_status="500", x_app_fail_version="v1")[0] == 500

    def test_it_is_slow_on_request(self) -> None:
        started = time.monotonic()
        _ask(x_app_delay="120ms")
        assert time.monotonic() - started >= 0.12

    def test_it_resets_on_request(self) -> None:
        with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
            _ask(x_app_reset="true")

    def test_a_connection_serves_many_requests_with_chunked_bodies_too(self) -> None:
        connection = http.client.HTTPConnection(HOST, PORT, timeout=30)
        for _ in range(3):
            connection.request(
                "POST", "/", body=iter([b"ab", b"c"]), encode_chunked=True, headers={"transfer-encoding": "chunked"}
            )
            assert json.loads(connection.getresponse().read())["body_bytes"] == 3
        connection.close()

    def test_orders_calls_through_the_proxy_and_passes_on_who_asked(self) -> None:
        seen: list[tuple[str, str, str]] = []

        class Proxy(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                seen.append((self.path, self.headers["host"], self.headers["x-tenant"]))
                self.send_response(429)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, format: str, *args: object) -> None:
                pass

        with HTTPServer((HOST, 9999), Proxy) as proxy:
            Thread(target=proxy.handle_request).start()
            status, answer = _ask("/v1/orders", "POST", x_tenant="acme")
        assert status == 429
        assert answer["charge"]["status"] == 429
        assert seen == [("http://pay.ns:81/v1/charge", "pay.ns:81", "acme")]


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("1.5s", 1.5), ("40", 0.04), ("x", 0), ("-1s", 0), ("9999s", 30)]
)
def test_delays(text: str, seconds: float) -> None:
    assert parse_delay(text) == seconds


def test_attempts_are_bounded() -> None:
    attempts = Attempts()
    for number in range(20_000):
        attempts.count(str(number))
    assert attempts.count("19999") == 2
    assert attempts.count("0") == 1
