"""A filter for the end-to-end tests: it answers, stamps and fails as it is told."""

from lateen_filter import FilterConfig, HttpFilter, Request, Response


def never_end(*, hoard: bool) -> None:
    """A loop in C hears of no limit: Envoy can only end the virtual machine. `hoard` takes all its memory first."""
    hoarded = []
    try:
        while hoard:
            hoarded.append(bytes(1 << 20))
    except MemoryError:
        pass
    sum(range(10**12))


class Stamp(HttpFilter):
    """Answers /stamped itself; everything else gets a header on its way to the application and one on its way back."""

    class Config(FilterConfig):
        stamp: str
        path: str = "/stamped"

    config: Config

    async def on_request(self, request: Request) -> Response | None:
        if request.path == self.config.path:
            return Response(200, self.config.stamp)
        if request.path in {"/crash", "/hog"}:
            never_end(hoard=request.path == "/hog")
        request.headers["x-stamp"] = self.config.stamp
        return None

    async def on_response(self, request: Request, response: Response) -> None:
        response.headers["x-stamped"] = self.config.stamp
