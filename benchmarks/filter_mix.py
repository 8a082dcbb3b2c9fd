"""The filter of `benchmarks.filter_soak`: each path does one of the things filters do."""

import gc
import json

from lateen_filter import Counter, HttpFilter, Request, Response

seen = Counter("soak_seen")


class Mix(HttpFilter):
    """Headers, bodies, answers, calls, shared data, metrics, properties, exceptions."""

    async def on_request(self, request: Request) -> Response | None:
        """By path."""
        match request.path:
            case "/headers":
                request.headers["x-rule"] = request.headers.get("user-agent", "") + request.authority
                request.headers.add("x-more", str(len(list(request.headers))))
            case "/answer":
                return Response.of_json({"query": request.query, "cookies": request.cookies}, 200)
            case "/body":
                request.set_body(json.dumps({"length": len(await request.body())}))
            case "/chunks":
                async for chunk in request.body_chunks(replace=True):
                    chunk.data = chunk.data.upper()
            case "/call":
                request.headers["x-rule"] = str((await self.http.get("upstream", "/called")).status)
            case "/shared":
                self.shared.update("count", lambda old: str(int(old or b"0") + 1))
                seen.add()
            case "/properties":
                request.headers["x-rule"] = request.properties.source_address or "-"
            case "/error":
                raise RuntimeError("one in ten of these requests fails")
            case "/state":
                gc.collect()
                count = int(self.shared.get("count") or b"0")
                return Response.of_json({"objects": len(gc.get_objects()), "count": count})
        return None

    async def on_response(self, request: Request, response: Response) -> Response | None:
        """One header, and a body in upper case for one path."""
        response.headers["x-py"] = request.method
        if request.path == "/response":
            response.set_body((await response.body()).upper())
        return None

    def on_log(self, request: Request, response: Response) -> None:
        """One counter."""
        seen.add()
