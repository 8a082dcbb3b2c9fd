"""External authorizers for tests: real servers, over gRPC and over HTTP, that answer by the `x-verdict` header and remember what they saw."""

from __future__ import annotations

import socketserver
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler

import grpc

from lateen.envoyapi.envoy.config.core.v3 import base_pb2
from lateen.envoyapi.envoy.service.auth.v3 import external_auth_pb2 as auth
from lateen.envoyapi.envoy.type.v3 import http_status_pb2

_CHECK = "envoy.service.auth.v3.Authorization"


class GrpcAuthorizer:
    """Denies with 401 what says `x-verdict: NAME-no`, and TCP when `allow_tcp` is off; adds a header to the rest.

    `x-tag: T` makes it leave `tag: T` and `tags: [T, other]` in dynamic metadata.
    """

    def __init__(self, name: str, address: tuple[str, int]) -> None:
        self.name = name
        self.seen: list[auth.CheckRequest] = []
        self.allow_tcp = True
        handler = grpc.unary_unary_rpc_method_handler(
            self._check,
            request_deserializer=auth.CheckRequest.FromString,
            response_serializer=auth.CheckResponse.SerializeToString,
        )
        self._server = grpc.server(ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_CHECK, {"Check": handler}),))
        self._server.add_insecure_port(f"{address[0]}:{address[1]}")
        self._server.start()

    def _check(self, request: auth.CheckRequest, _: grpc.ServicerContext) -> auth.CheckResponse:
        self.seen.append(request)
        http = request.attributes.request.http
        if http.method and http.headers.get("x-verdict") == f"{self.name}-no":
            denied = auth.DeniedHttpResponse(body=f"{self.name} says no")
            denied.status.code = http_status_pb2.Unauthorized
            return auth.CheckResponse(status={"code": 16}, denied_response=denied)
        if not http.method and not self.allow_tcp:
            return auth.CheckResponse(status={"code": 7})
        header = base_pb2.HeaderValueOption(header=base_pb2.HeaderValue(key=f"x-{self.name}", value="yes"))
        answer = auth.CheckResponse(status={"code": 0}, ok_response=auth.OkHttpResponse(headers=[header]))
        if tag := http.headers.get("x-tag"):
            answer.dynamic_metadata.update({"tag": tag, "tags": [tag, "other"]})
        return answer

    def close(self) -> None:
        self._server.stop(0).wait()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, HttpAuthorizer)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {k.lower(): v for k, v in self.headers.items()}
        server.seen.append((self.command, self.path, headers, body))
        time.sleep(float(headers.get("x-wait") or 0))  # an authorizer is slow because the test says so
        allowed = headers.get("x-verdict") != f"{server.name}-no"
        self.send_response(200 if allowed else 403)
        for name in ("x-to-upstream", "x-to-client-ok", "x-to-client-denied", "x-secret"):
            self.send_header(name, server.name)
        text = b"" if allowed else b"http says no"
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_POST = do_GET  # noqa: N815 the names of the base class

    def log_message(self, format: str, *args: object) -> None:
        pass


class HttpAuthorizer(socketserver.ThreadingTCPServer):
    """Answers 403 to what says `x-verdict: NAME-no`, and `x-wait` seconds late."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, name: str, address: tuple[str, int]) -> None:
        super().__init__(address, _Handler)
        self.name = name
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()
