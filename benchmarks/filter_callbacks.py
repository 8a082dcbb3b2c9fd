"""A filter with every callback, measured by `benchmarks.filters`: what is paid when a request is seen four times."""

from lateen_filter import Counter, HttpFilter, Request, Response

seen = Counter("benchmark_seen")


class Everything(HttpFilter):
    """Request, response and log."""

    async def on_request(self, request: Request) -> Response | None:
        """A body would be read; the benchmark's requests have none."""
        await request.body()
        return None

    async def on_response(self, request: Request, response: Response) -> Response | None:
        """One header."""
        response.headers["x-py"] = request.method
        return None

    def on_log(self, request: Request, response: Response) -> None:
        """One counter."""
        seen.add()
