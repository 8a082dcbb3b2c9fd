"""The filters that `benchmarks.filters` measures; they are built into one module. Each waits for nothing, as most filters do."""

import json

from lateen_filter import HttpFilter, Request, Response


class NoOp(HttpFilter):
    """What being called costs."""

    async def on_request(self, request: Request) -> Response | None:
        """Let it pass."""


class Headers(HttpFilter):
    """Three headers read, one written."""

    async def on_request(self, request: Request) -> Response | None:
        """As the Lua filter beside it."""
        headers = request.headers
        headers["x-py"] = headers[":path"] + headers[":authority"] + headers.get("user-agent", "")
        return None


class Decision(HttpFilter):
    """A JSON document of claims is parsed and decided on."""

    async def on_request(self, request: Request) -> Response | None:
        """Refuse one role."""
        claims = json.loads(request.headers.get("x-claims", "{}"))
        return Response(403, "no\n") if claims.get("role") == "evil" else None
