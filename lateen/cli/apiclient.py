"""Client of the control plane's apply API: JSON over HTTP, by default over its unix socket."""

import os
from collections.abc import Mapping
from typing import Any, Self

import httpx

from lateen.cli.exits import CommandError, Exit
from lateen.local.rundir import RunInfo, live_runs

TIMEOUT_SECONDS = 10.0


class ControlPlane:
    """A connection to one running control plane.

    `url` is `unix:///path/api.sock`, `http://host:port` or `https://host:port`.
    Every method raises CommandError(UNREACHABLE) when nobody answers, and returns (status, JSON value) otherwise.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        if url.startswith("unix://"):
            transport = httpx.HTTPTransport(uds=url.removeprefix("unix://"))
            self._http = httpx.Client(transport=transport, base_url="http://lateen", timeout=TIMEOUT_SECONDS)
        elif url.startswith(("http://", "https://")):
            self._http = httpx.Client(base_url=url, timeout=TIMEOUT_SECONDS, trust_env=False)
        else:
            raise CommandError(
                Exit.USAGE, f"not a control plane URL: {url!r}", "use unix:///path/api.sock or http://host:port"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def call(
        self, method: str, path: str, *, params: Mapping[str, str] | None = None, body: str | None = None
    ) -> tuple[int, Any]:
        """One request; the answer's body is parsed as JSON whatever its status."""
        try:
            answer = self._http.request(method, path, params=params, content=body)
        except httpx.TimeoutException as error:
            raise CommandError(
                Exit.TIMEOUT, f"no answer from the control plane at {self.url} within {TIMEOUT_SECONDS:.0f} s"
            ) from error
        except httpx.HTTPError as error:
            raise CommandError(
                Exit.UNREACHABLE,
                f"cannot reach the control plane at {self.url}: {error}",
                "is the mesh running? start one with: lateen up DIR",
            ) from error
        try:
            return answer.status_code, answer.json()
        except ValueError as error:
            raise CommandError(
                Exit.UNREACHABLE, f"{self.url} answered {answer.status_code} with something that is not JSON"
            ) from error

    def get(self, path: str, **params: str) -> Any:  # noqa: ANN401  (JSON)
        """GET that must succeed: the JSON value, or CommandError."""
        status, value = self.call("GET", path, params=params)
        if status == httpx.codes.OK:
            return value
        raise CommandError(Exit.FINDINGS, str(value.get("error", value)) if isinstance(value, dict) else str(value))


def find_control_plane(url: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """The URL to talk to: the flag, then LATEEN_CONTROL_PLANE, then the only mesh that runs on this host."""
    chosen = url or environ.get("LATEEN_CONTROL_PLANE")
    return chosen or running_mesh(None, {}).control_plane


def running_mesh(url: str | None, environ: Mapping[str, str] = os.environ) -> RunInfo:
    """The mesh on this host whose control plane is `url` (or LATEEN_CONTROL_PLANE), else the only one; CommandError otherwise."""
    runs = live_runs()
    chosen = url or environ.get("LATEEN_CONTROL_PLANE")
    if chosen:
        runs = [run for run in runs if run.control_plane == chosen]
        if not runs:
            raise CommandError(Exit.UNREACHABLE, f"no mesh on this host has the control plane {chosen}")
    if not runs:
        raise CommandError(
            Exit.UNREACHABLE, "no mesh runs on this host", "start one with: lateen up DIR, or pass --control-plane URL"
        )
    if len(runs) > 1:
        choices = "\n".join(f"  --control-plane {run.control_plane}   # {run.directory}" for run in runs)
        raise CommandError(Exit.USAGE, f"{len(runs)} meshes run on this host, choose one:\n{choices}")
    return runs[0]
