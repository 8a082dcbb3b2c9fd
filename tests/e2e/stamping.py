"""A filter for the end-to-end tests: it answers, stamps and fails as it is told."""

from lateen_filter import FilterConfig, HttpFilter, Request, Response


class Stamp(HttpFilter):
    """Answers /stamped itself; everything else gets a header on its way to the application and one on its way back."""

    class Config(FilterConfig):
        stamp: str
        path: str = "/stamped"

    config: Config

    async def on_request(self, request: Request) -> Response | None:
        if request.path == self.config.path:
            return Response(200, self.config.stamp)
        request.headers["x-stamp"] = self.config.stamp
        return None

    async def on_response(self, request: Request, response: Response) -> None:
        response.headers["x-stamped"] = self.config.stamp
