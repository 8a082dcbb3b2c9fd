"""The ext_authz replicas of a running mesh, over their HTTP port: denials and keys."""

from collections.abc import Mapping
from typing import Any, Final

import httpx

from lateen.cli.apiclient import ControlPlane, find_control_plane
from lateen.cli.exits import CommandError, Exit
from lateen.cli.meshview import view_of_running
from lateen.jwks.keys import JwksError, KeySet, parse_jwks
from lateen.mesh.engine import engine_of
from lateen.mesh.hosts import service_host
from lateen.mesh.meshconfig import EnforcementEngine
from lateen.mesh.view import MeshView
from lateen.policy.tokens import KeySource

HTTP_PORT: Final = 9192
_SERVICE: Final = "lateen-extauthz"
_TIMEOUT: Final = 5.0
_MAX_ANSWER: Final = 16 * 1024 * 1024


def extauthz_urls(control_plane: str | None) -> list[str]:
    """The HTTP address of every replica that the control plane knows."""
    with ControlPlane(find_control_plane(control_plane)) as api:
        return urls_of(view_of_running(api))


def urls_of(view: MeshView) -> list[str]:
    """The HTTP addresses of the workloads behind the service of ext_authz."""
    service = view.services.get(service_host(_SERVICE, view.root_namespace))
    addresses: set[str] = set()
    if service is not None:
        addresses = {endpoint.address for port in service.ports for endpoint in view.endpoints(service, port)}
    if not addresses:
        hint = f"give the HTTP address of a replica: --extauthz http://HOST:{HTTP_PORT}"
        raise CommandError(Exit.UNREACHABLE, f"the mesh has no {_SERVICE}", hint)
    return [f"http://{f'[{a}]' if ':' in a else a}:{HTTP_PORT}" for a in sorted(addresses)]


def get_json(url: str, path: str) -> tuple[int, Any]:
    """One GET; CommandError when the replica cannot be reached or sends something else than JSON."""
    try:
        with httpx.Client(base_url=url, timeout=_TIMEOUT, trust_env=False) as client:
            answer = client.get(path)
            if len(answer.content) > _MAX_ANSWER:
                raise CommandError(Exit.UNREACHABLE, f"{url}{path} answered with more than {_MAX_ANSWER} bytes")
            return answer.status_code, answer.json()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CommandError(Exit.UNREACHABLE, f"cannot reach ext_authz at {url}: {error}") from error
    except ValueError as error:
        raise CommandError(Exit.UNREACHABLE, f"{url}{path} answered with something that is not JSON") from error


def keys_pages(control_plane: str | None) -> list[tuple[str, Mapping[str, Any]]]:
    """`/v1/keys` of the control plane and of every replica; a mesh that only has native workloads needs no replica."""
    with ControlPlane(find_control_plane(control_plane)) as api:
        view, own = view_of_running(api), api.get("/v1/keys")
    native = any(engine_of(view, workload) is EnforcementEngine.NATIVE for workload in view.workloads)
    try:
        urls = urls_of(view)
    except CommandError:
        if not native:
            raise
        urls = []
    return [*((url, get_json(url, "/v1/keys")[1]) for url in urls), ("control plane", own)]


class RunningKeys:
    """The keys that verify tokens at one workload, asked once: the control plane's for native workloads, else those of a replica."""

    def __init__(self, view: MeshView, control_plane: str, *, native: bool) -> None:
        """`view` is of the running mesh."""
        self._view = view
        self._control_plane = control_plane
        self._native = native
        self._sources: Mapping[tuple[str, str], KeySet | None] | None = None

    def __call__(self, source: KeySource) -> KeySet | None:
        """The keys of a remote source; None when nobody has them."""
        if self._sources is None:
            self._sources = self._ask()
        return self._sources.get((source.url, source.issuer))

    def _ask(self) -> Mapping[tuple[str, str], KeySet | None]:
        if self._native:
            with ControlPlane(self._control_plane) as api:
                return _by_source(api.get("/v1/keys"))
        for url in urls_of(self._view):
            try:
                status, value = get_json(url, "/v1/keys")
            except CommandError:
                continue
            if status == httpx.codes.OK:
                return _by_source(value)
        return {}


def _by_source(page: Mapping[str, Any]) -> Mapping[tuple[str, str], KeySet | None]:
    return {(entry["url"], entry["issuer"]): _key_set(entry) for entry in page["sources"]}


def _key_set(entry: Mapping[str, Any]) -> KeySet | None:
    import json

    try:
        return parse_jwks(json.dumps({"keys": entry["jwks"]}))
    except JwksError:
        return None
