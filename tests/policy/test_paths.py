"""Paths as policies see them: what we compute is what a real Envoy makes of a request, and templates match what Envoy's match."""

import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from lateen.controlplane.filters import connection_manager, http_filter_chain, use_routes
from lateen.controlplane.protos import address, packed
from lateen.envoyapi.envoy.config.bootstrap.v3 import bootstrap_pb2
from lateen.envoyapi.envoy.config.listener.v3 import listener_components_pb2 as lc
from lateen.envoyapi.envoy.config.listener.v3 import listener_pb2
from lateen.envoyapi.envoy.config.route.v3 import route_components_pb2 as rc
from lateen.envoyapi.envoy.config.route.v3 import route_pb2
from lateen.envoyapi.envoy.extensions.filters.http.router.v3 import router_pb2
from lateen.envoyapi.envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm,
)
from lateen.envoyapi.envoy.extensions.path.match.uri_template.v3 import uri_template_match_pb2
from lateen.mesh.meshconfig import MeshConfig
from lateen.policy.matching import Constants, path_code
from lateen.policy.paths import normalized_path
from lateen.policy.request import CheckInput, path_of
from tests.controlplane.traffic import free_port, lease, running_envoy

MODES = ("NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES")


@pytest.mark.parametrize(
    ("mode", "path", "expected"),
    [
        ("NONE", "/a/../b//c\\d%2F", "/a/../b//c\\d%2F"),
        ("BASE", "/a/../b", "/b"),
        ("DEFAULT", "/a/./b/..", "/a/"),
        ("BASE", "/../../a", "/a"),
        ("BASE", "/a/%2e%2E/b?c/../d", "/b"),
        ("BASE", "/a\\b", "/a/b"),
        ("BASE", "/%61%2Fb", "/a%2Fb"),
        ("BASE", "/a//b", "/a//b"),
        ("BASE", "/a/", "/a/"),
        ("BASE", "/a/%zz%", "/a/%zz%"),
        ("BASE", "/a/..;x=1/b", "/b"),
        ("BASE", "/a/%2e%2e;x/b", "/a/..;x/b"),
        ("BASE", "/%%61b", "/%25ab"),
        ("BASE", "/{a|b}", "/%7Ba%7Cb%7D"),
        ("BASE", "/a%00", None),
        ("NONE", "/a%00", "/a%00"),
        ("NONE", "/a b", None),
        ("BASE", "/a#b", None),
        ("BASE", "/\u00e9", None),
        ("BASE", "*", None),
        ("MERGE_SLASHES", "/a//b///c", "/a/b/c"),
        ("MERGE_SLASHES", "/a%2F%2Fb", "/a%2F%2Fb"),
        ("MERGE_SLASHES", "///", "//"),
        ("DECODE_AND_MERGE_SLASHES", "/a%2F%5cb", "/a/b"),
        ("DECODE_AND_MERGE_SLASHES", "/a%2f..%2fb", "/b"),
        ("DECODE_AND_MERGE_SLASHES", "/a%252fb", "/a%252fb"),
    ],
)
def test_normalized(mode: str, path: str, expected: str | None) -> None:
    assert normalized_path(path, mode) == expected


def _targets() -> list[str]:
    """Every byte as it is and escaped, everything about dots, slashes and parameters, very long ones, and made-up ones."""
    found = [f"/a{chr(c)}b" for c in range(1, 256) if c not in (10, 13)]
    found += [f"/a%{c:02X}b" for c in range(256)] + [f"/a%{c:02x}b" for c in range(10, 256)]
    found += """/ // /// /. /.. /../.. /a/.. /a/../ /a/. /a/./ /a//.. /a//../b //..//a /a/b//../.. /... /.a /a. /..a /%2e /%2E%2e/a
        /a/.%2e/b /a/%2e%2e /a/%252e%252e/b /a\\..\\b /a\\\\b \\a /a%2f..%2fb /a/%2f/b /a%2F%2Fb /a%5c..%5Cb /a%2f%2e%2e%2fb /a%252fb
        /a% /a%2 /a%zz /a%%2e /a%2%2e /%c3%a9 \u00c3\u00a9 /a?b/../c /a/..?x=/../y /a?x%2f /a#b /a?b#c /a%23b /a%3fb/../c a * /a;b/../c
        /a/.../b /..%2f..%2fa /a%2f. /a%2f.. /%2f /%2fa /%5ca /%2f%2fa /a/b%2f /%u002e%u002e/a /%C0%AE%C0%AE/a /%c0%af /%e2%88%95a
        //a/../b /a/..; /a/.; /a/..;/ /a/..%3bx/b /a/b;x/../c /a/b/..;x=..;/c /;/.. /a/..;x?y /a?^`{}<>|"\\ /a?%00 /a/%00 /%%30%30
        /a/..\\..;\\b /.;%3b\\%252e//%5C/ //..;// /a/..;%2fb /%6%31 /%%61%62""".split()  # noqa: SIM905 a table
    found += [
        f"/{'a' * 20000}",
        f"/{'a/../' * 4000}",
        f"/{'%2e%2e/' * 4000}x",
        f"{'/' * 20000}x",
        f"/a{'%252e' * 4000}",
        "/a?b c",
    ]
    parts = "/ / // . .. %2e %2E ; a % %% %30 %6 0 %2 %2f %5C \\ %61 %3b b;x %252e | %25 ?".split()  # noqa: SIM905 a table
    chosen = random.Random(3)
    return found + ["/" + "".join(chosen.choices(parts, k=chosen.randint(1, 9))) for _ in range(600)]


@dataclass
class Proxy:
    """An Envoy with a port for each mode that says in `x-path` what became of the path, and in the status which template it met."""

    address: str
    ports: dict[str, int]
    connections: dict[str, socket.socket] = field(default_factory=dict)

    def ask(self, mode: str, target: str, case: str = "") -> tuple[int, str]:
        """Status and `:path`."""
        connection = self.connections.pop(mode, None)
        if connection is None:
            connection = socket.create_connection((self.address, self.ports[mode]), timeout=60)
        request = f"GET {target} HTTP/1.1\r\nhost: a\r\nx-case: {case}\r\n\r\n"
        connection.sendall(request.encode("latin-1"))
        received = b""
        while b"\r\n\r\n" not in received:
            more = connection.recv(1 << 16)
            assert more, received
            received += more
        lines = received.decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
        if headers.get("connection") == "close":
            connection.close()
        else:
            self.connections[mode] = connection
        return int(lines[0].split()[1]), headers.get("x-path", "")


TEMPLATES = (
    "/a/{*}",
    "/a/{*}/c",
    "/a/{**}",
    "/a/{**}/c",
    "/{*}/b/{**}",
    "/{**}",
    "/a/{*}/{**}/d",
    "/{**}/x",
    "/a.b/{*}",
)
PATHS = """/ /a /a/ /a/b /a/b/ /a//c /a/b/c /a//b/c /a/c /a/b/c/ /x/b/ /x/b /x/b/c/d //b/ /a/b/x/d /a/b//d /a/b/d /a/b/x/y/d /x /a/x
    /a/%2F /a/%2f/c /a/.. /a/~x /a/x;y=1 /a/x@y:z /a/x=y,z /a/(x)!$&'* /a/x*y /a/b|c /a/[b] /axb/c /a.b/c /a.b/ /a/x%00 /a/"b" /a/b\\c""".split()  # noqa: SIM905 a table
PATHS += [f"/a/x{chr(c)}y" for c in range(33, 127) if chr(c) not in "#?"]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    at = f"{lease()}.1"
    made = Proxy(at, {mode: free_port(at) for mode in MODES})
    admin = free_port()
    config = bootstrap_pb2.Bootstrap()
    config.admin.address.CopyFrom(address("127.0.0.1", admin))
    config.layered_runtime.layers.add(name="static").static_layer.update({"re2.max_program_size.error_level": 32768})
    for mode, port in made.ports.items():
        mesh = MeshConfig.model_validate({"pathNormalization": {"normalization": mode}})
        router = hcm.HttpFilter(name="envoy.filters.http.router", typed_config=packed(router_pb2.Router()))
        manager = connection_manager(mesh, "paths", [router])
        host = rc.VirtualHost(name="all", domains=["*"], routes=[*map(_template_route, TEMPLATES), *_other_routes()])
        use_routes(manager, route_pb2.RouteConfiguration(name="all", virtual_hosts=[host]))
        chain = lc.FilterChain(filters=[http_filter_chain(manager)])
        config.static_resources.listeners.append(
            listener_pb2.Listener(name=mode, address=address(at, port), filter_chains=[chain])
        )
    with running_envoy(config, tmp_path_factory.mktemp("paths"), admin):
        yield made
        for connection in made.connections.values():
            connection.close()


def _template_route(template: str) -> rc.Route:
    """200 where a request that names this template matches it."""
    pattern = template.replace("{**}", "**").replace("{*}", "*")
    route = rc.Route(direct_response=rc.DirectResponseAction(status=200))
    route.match.path_match_policy.name = "template"
    route.match.path_match_policy.typed_config.CopyFrom(
        packed(uri_template_match_pb2.UriTemplateMatchConfig(path_template=pattern))
    )
    route.match.headers.add(name="x-case").string_match.exact = template
    return route


def _other_routes() -> tuple[rc.Route, rc.Route]:
    """404 for a template that does not match; the path for whoever asks for no template."""
    other = rc.Route(match=rc.RouteMatch(prefix=""), direct_response=rc.DirectResponseAction(status=404))
    other.match.headers.add(name="x-case").string_match.prefix = "/"
    shown = rc.Route(match=rc.RouteMatch(prefix=""), direct_response=rc.DirectResponseAction(status=200))
    header = shown.response_headers_to_add.add().header
    header.key, header.value = "x-path", "%REQ(:path)%"
    return other, shown


@pytest.mark.parametrize("mode", MODES)
def test_a_real_envoy_makes_the_same_of_every_path(proxy: Proxy, mode: str) -> None:
    different = []
    for target in _targets():
        status, found = proxy.ask(mode, target)
        theirs = path_of(found) if status == 200 else None
        if theirs != (ours := normalized_path(target, mode)):
            different.append((target[:100], status, theirs, ours))
    assert different == []


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_real_envoy_matches_templates_alike(proxy: Proxy, template: str) -> None:
    constants = Constants()
    matches = eval(f"lambda r: {path_code([template], constants)}", {**constants.values})  # noqa: S307 as the compiler does
    different = [
        (path, theirs)
        for path in PATHS
        if (theirs := proxy.ask("NONE", path, template)[0] == 200) != matches(CheckInput(http=True, path=path))
    ]
    assert different == []
