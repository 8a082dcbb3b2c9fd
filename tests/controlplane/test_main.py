"""The control plane as a process: its API, its files, its restart. Real translators, a real gRPC client as the proxy."""

import asyncio
import contextlib
import json
import signal
import stat
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from lateen.controlplane.names import CDS, LDS
from lateen.controlplane.settings import parse_settings
from tests.controlplane.manifests import dns_entry
from tests.controlplane.pki import Authority
from tests.controlplane.real_envoy import free_port, own_address
from tests.controlplane.sds_server import serving
from tests.controlplane.xds_client import DeltaClient, credentials, node

in_one_loop = pytest.mark.asyncio(loop_scope="module")

WORKLOAD = """apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: app-1, namespace: shop, labels: {app: app}}
spec: {address: 127.0.0.1, labels: {app: app}, serviceAccount: app, ports: {http: 8080}}
"""
SERVICE = """apiVersion: v1
kind: Service
metadata: {name: app, namespace: shop}
spec:
  selector: {app: app}
  ports: [{name: http, port: 80, targetPort: 8080}]
"""


def entry(host: str, name: str = "outside") -> str:
    return dns_entry(name, host)


@dataclass
class Plane:
    """Where one control plane keeps its things, and a client of its API."""

    run: Path
    config: Path
    address: str
    ads_port: int
    authority: Authority
    api: httpx.AsyncClient
    process: asyncio.subprocess.Process | None = None

    async def spawn(self) -> asyncio.subprocess.Process:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            *(
                "-m",
                "lateen.controlplane",
                "--config-dir",
                str(self.config),
                "--mesh-config",
                str(self.config / "mesh.yaml"),
            ),
            *("--api-socket", str(self.run / "api.sock"), "--sds-socket", str(self.run / "sds.sock")),
            *("--ads-address", f"127.0.0.1:{self.ads_port}", "--http-address", f"{self.address}:15014"),
            stderr=(self.run / "log").open("ab"),
        )
        return self.process

    async def start(self) -> None:
        process = await self.spawn()
        async with asyncio.timeout(60):
            while True:
                assert process.returncode is None, self.log()
                with contextlib.suppress(httpx.TransportError):
                    async with httpx.AsyncClient(trust_env=False) as http:
                        if (await http.get(f"http://{self.address}:15014/readyz")).status_code == 200:
                            return
                await asyncio.sleep(0.02)

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(how)
        async with asyncio.timeout(60):
            await self.process.wait()

    def log(self) -> str:
        return (self.run / "log").read_text()[-4000:]

    async def apply(self, text: str, origin: str = "api", file: str = "test.yaml") -> httpx.Response:
        return await self.api.post("/v1/apply", params={"origin": origin, "file": file}, content=text)

    async def get(self, path: str, **params: str) -> Any:  # noqa: ANN401 - JSON
        response = await self.api.get(path, params=params)
        assert response.status_code == 200, response.text
        return response.json()

    async def metrics(self) -> str:
        async with httpx.AsyncClient(trust_env=False) as http:
            return (await http.get(f"http://{self.address}:15014/metrics")).text

    def proxy(self) -> DeltaClient:
        return DeltaClient(self.ads_port, credentials(self.authority, self.authority.workload("shop", "app")), node())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[Plane]:
    """One process for the whole module: starting it is what takes time."""
    authority = Authority()
    with tempfile.TemporaryDirectory(prefix="lateen-", dir="/tmp") as folder:
        run = Path(folder)
        (run / "config").mkdir()
        transport = httpx.AsyncHTTPTransport(uds=str(run / "api.sock"))
        async with (
            serving(run / "sds.sock", authority, authority.server()),
            httpx.AsyncClient(transport=transport, base_url="http://lateen", timeout=60) as api,
        ):
            made = Plane(run, run / "config", own_address(), free_port(), authority, api)
            await made.start()
            try:
                yield made
            finally:
                await made.stop(signal.SIGKILL)


@pytest_asyncio.fixture(loop_scope="module")
async def plane(shared: Plane) -> Plane:
    """The process, running and without any configuration."""
    if shared.process is None or shared.process.returncode is not None:
        await shared.start()
    for path in shared.config.iterdir():
        path.unlink()
    # Deleting uncovers what it shadowed, and files go when they have stayed away for a while: until nothing is left.
    await until(lambda: delete_all(shared), lambda left: not left)
    await until(lambda: shared.get("/v1/proxies"), lambda value: not value["proxies"])
    return shared


async def delete_all(plane: Plane) -> int:
    """Delete what can be deleted; returns how many resources there were."""
    items = (await plane.get("/v1/resources"))["items"]
    for item in items:
        metadata, kind = item["resource"]["metadata"], item["resource"]["kind"]
        path = f"/v1/resources/{kind}/{metadata['namespace']}/{metadata['name']}"
        if item["origin"] != "file":
            await plane.api.delete(path, params={"origin": item["origin"]})
    return len(items)


async def until(ask: Callable[[], Awaitable[Any]], true: Callable[[Any], bool], within: float = 60.0) -> Any:  # noqa: ANN401 - JSON
    """Ask until the answer is right."""
    async with asyncio.timeout(within):
        while not true(answer := await ask()):  # noqa: ASYNC110 - it happens in another process
            await asyncio.sleep(0.02)
    return answer


async def receive_for_ever(envoy: DeltaClient) -> None:
    while True:
        await envoy.receive(timeout=60)


async def receive_cluster(envoy: DeltaClient, part: str, within: float = 60.0) -> float:
    """Answer until a cluster whose name holds `part` has come; returns the seconds it took."""
    began = time.monotonic()
    while not any(part in name for name in envoy.resources.get(CDS, {})):
        await envoy.receive(timeout=within - (time.monotonic() - began))
    return time.monotonic() - began


@in_one_loop
async def test_a_change_on_disk_reaches_a_proxy_at_once(plane: Plane) -> None:
    assert (await plane.apply(WORKLOAD, "runner")).status_code == 200
    async with plane.proxy() as envoy:
        await envoy.subscribe(CDS)
        await envoy.receive()
        took = []
        for step in range(5):
            (plane.config / "outside.yaml").write_text(entry(f"host-{step}.example"))
            took.append(await receive_cluster(envoy, f"host-{step}.example"))
    # 0.3 s when the machine is idle; the best of a few tells the design from the load of others.
    assert min(took) < 3.0, took


@in_one_loop
async def test_broken_yaml_keeps_the_good_state_and_says_where(plane: Plane) -> None:
    path = plane.config / "outside.yaml"
    await plane.apply(WORKLOAD, "runner")
    async with plane.proxy() as envoy, plane.api.stream("GET", "/v1/events") as events:
        lines = events.aiter_lines()
        assert json.loads(await anext(lines)) == {"event": "listening"}
        path.write_text(entry("good.example"))
        await envoy.subscribe(CDS)
        await receive_cluster(envoy, "good.example")
        path.write_text(entry("bad.example").replace("resolution", "resolutoin"))
        told = await next_event(lines, "config", accepted=False)
        found = told["diagnostics"][0]
        assert (found["file"], found["line"]) == (str(path), 7)
        assert "resolution" in found["hint"] + found["message"]
        resources = await plane.get("/v1/resources", kind="serviceentry")
        assert [i["resource"]["spec"]["hosts"] for i in resources["items"]] == [["good.example"]]
        assert any(d["file"] == str(path) for d in (await plane.get("/v1/diagnostics"))["diagnostics"])
        assert "lateen_config_broken_files 1.0" in await plane.metrics()
        path.write_text(entry("mended.example"))
        await next_event(lines, "config", accepted=True)
        await receive_cluster(envoy, "mended.example")


async def next_event(lines: AsyncIterator[str], name: str, **fields: object) -> Mapping[str, Any]:
    async with asyncio.timeout(60):
        while True:
            told = json.loads(await anext(lines))
            if told["event"] == name and all(told[k] == v for k, v in fields.items()):
                assert isinstance(told, dict)
                return told


@in_one_loop
async def test_what_is_read_back_has_its_namespace_also_when_it_was_left_out(plane: Plane) -> None:
    await plane.apply(entry("a.example").replace(", namespace: shop", ""))
    item = await plane.get("/v1/resources/se/default/outside")
    assert item["resource"]["metadata"]["namespace"] == "default"
    assert (await plane.api.delete("/v1/resources/ServiceEntry/default/outside")).status_code == 200


@in_one_loop
async def test_apply_get_and_delete(plane: Plane) -> None:
    answer = (await plane.apply(entry("a.example"))).json()
    assert answer["results"] == [{"resource": "ServiceEntry/shop/outside", "action": "created"}]
    assert (await plane.apply(entry("a.example"))).json()["results"][0]["action"] == "unchanged"
    assert (await plane.apply(entry("b.example"))).json()["results"][0]["action"] == "configured"
    item = await plane.get("/v1/resources/se/shop/outside")
    assert (item["resource"]["spec"]["hosts"], item["origin"], item["source"]) == (
        ["b.example"],
        "api",
        {"file": "test.yaml", "line": 1},
    )
    assert [i["resource"]["kind"] for i in (await plane.get("/v1/resources", namespace="shop"))["items"]] == [
        "ServiceEntry"
    ]
    assert (await plane.get("/v1/resources", namespace="other"))["items"] == []
    assert (await plane.api.delete("/v1/resources/ServiceEntry/shop/outside")).status_code == 200
    assert (await plane.api.delete("/v1/resources/ServiceEntry/shop/outside")).status_code == 404
    assert (await plane.api.get("/v1/resources/ServiceEntry/shop/outside")).status_code == 404


@in_one_loop
async def test_an_invalid_document_refuses_the_whole_apply(plane: Plane) -> None:
    answer = await plane.apply(entry("a.example", "fine") + "---\n" + entry("b.example").replace("DNS", "NSD"))
    assert answer.status_code == 422
    assert [(d["resource"], d["line"], d["file"]) for d in answer.json()["diagnostics"]] == [
        ("ServiceEntry/shop/outside", 15, "test.yaml")
    ]
    assert (await plane.get("/v1/resources"))["items"] == []


@in_one_loop
async def test_files_stay_the_truth(plane: Plane) -> None:
    (plane.config / "outside.yaml").write_text("\n" + entry("file.example"))
    await until(lambda: plane.get("/v1/resources"), lambda value: bool(value["items"]))
    refused = await plane.apply(entry("api.example"))
    assert refused.status_code == 422
    assert f"is declared in {plane.config}/outside.yaml:2" in refused.json()["diagnostics"][0]["message"]
    assert (await plane.api.delete("/v1/resources/se/shop/outside")).status_code == 409
    shadowed = await plane.apply(entry("runner.example"), "runner")
    assert shadowed.status_code == 200
    assert shadowed.json()["diagnostics"][0]["severity"] == "warning"
    item = await plane.get("/v1/resources/se/shop/outside")
    assert (item["resource"]["spec"]["hosts"], item["origin"]) == (["file.example"], "file")


@in_one_loop
async def test_an_overlay_stands_before_the_file_it_copies(plane: Plane) -> None:
    (plane.config / "outside.yaml").write_text(entry("file.example"))
    await until(lambda: plane.get("/v1/resources"), lambda value: bool(value["items"]))
    path = "/v1/resources/se/shop/outside"
    assert (await plane.apply(entry("overlay.example"), "overlay")).json()["diagnostics"] == []
    assert (await plane.get(path))["resource"]["spec"]["hosts"] == ["overlay.example"]
    assert (await plane.apply(entry("api.example"))).status_code == 422
    assert (await plane.api.delete(path, params={"origin": "overlay"})).status_code == 200
    assert (await plane.get(path))["resource"]["spec"]["hosts"] == ["file.example"]


WRONG = [
    ("GET", "/v1/resources?kind=nonsense", b"", 400),
    ("GET", "/v1/nothing", b"", 404),
    ("POST", "/v1/resources", b"", 405),
    ("POST", "/v1/apply?origin=file", b"a: b", 400),
    ("POST", "/v1/apply", b"\xff\xfe", 400),
    ("POST", "/v1/apply", b"#" * (8 * 1024 * 1024 + 1), 413),
    ("GET", "/v1/proxies/nobody.shop/config", b"", 404),
]


@in_one_loop
async def test_errors_are_json(plane: Plane) -> None:
    for method, path, body, status in WRONG:
        response = await plane.api.request(method, path, content=body)
        assert response.status_code == status, (method, path)
        assert isinstance(response.json()["error"], str), (method, path)


@in_one_loop
async def test_proxies_show_what_they_refuse_and_where_it_comes_from(plane: Plane) -> None:
    await plane.apply(WORKLOAD + "---\n" + SERVICE, "runner", "runner")
    (plane.config / "outside.yaml").write_text("# a comment\n" + entry("outside.example"))
    async with plane.proxy() as envoy:
        await envoy.subscribe(CDS)
        await envoy.subscribe(LDS)
        await refuse_cluster(envoy, "outside.example", "no such thing as outside.example")
        answer = await until(
            lambda: plane.get("/v1/proxies"), lambda value: value["proxies"][0]["types"]["CDS"]["status"] == "NACK"
        )
        (proxy,) = answer["proxies"]
        assert proxy["synced"] is False
        assert proxy["identity"] == "spiffe://cluster.local/ns/shop/sa/app"
        state = proxy["types"]["CDS"]
        assert state["error"] == {
            "message": "no such thing as outside.example",
            "resource": "outbound|80||outside.example",
            "origin": "ServiceEntry/shop/outside",
            "file": str(plane.config / "outside.yaml"),
            "line": 2,
        }
        config = await plane.get("/v1/proxies/app-1.shop/config")
        assert "outbound|80||outside.example" in config["resources"]["CDS"]
        line = next(json.loads(row) for row in plane.log().splitlines() if "resource refused" in row)
        assert (line["type"], line["origin"], line["line"]) == ("CDS", "ServiceEntry/shop/outside", 2)
        text = await plane.metrics()
        assert "pilot_xds_cds_reject 1.0" in text
        assert 'pilot_xds{type="sidecar"} 1.0' in text


async def refuse_cluster(envoy: DeltaClient, part: str, says: str) -> None:
    """Accept everything but pushes that hold a cluster of this name, until it has come alone and been refused."""
    async with asyncio.timeout(60):
        while True:
            response = await envoy.read()
            guilty = [r.name for r in response.resources if part in r.name]
            await envoy.answer(response, says if guilty else "")
            if guilty and len(response.resources) == 1:
                return


@in_one_loop
async def test_a_killed_control_plane_comes_back_with_what_it_was_given(plane: Plane) -> None:
    await plane.apply(WORKLOAD + "---\n" + SERVICE, "runner", "runner")
    await plane.apply(entry("api.example"))
    async with plane.proxy() as envoy:
        await envoy.subscribe(CDS)
        await receive_cluster(envoy, "api.example")
        reader = asyncio.create_task(receive_for_ever(envoy))
        await until(lambda: plane.get("/v1/proxies"), lambda value: bool(value["proxies"][0]["synced"]))
        reader.cancel()
        held = dict(envoy.versions[CDS])
    state = plane.run / "controlplane-state.json"
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    await plane.stop(signal.SIGKILL)
    await plane.start()
    items = (await plane.get("/v1/resources"))["items"]
    assert [(i["resource"]["kind"], i["origin"]) for i in items] == [
        ("Service", "runner"),
        ("ServiceEntry", "api"),
        ("WorkloadEntry", "runner"),
    ]
    async with plane.proxy() as envoy:
        await envoy.subscribe(CDS, initial=held)
        with pytest.raises(TimeoutError):
            await envoy.read(timeout=1.5)


@in_one_loop
async def test_a_damaged_state_file_does_not_stop_it(plane: Plane) -> None:
    await plane.apply(WORKLOAD, "runner")
    await plane.stop()
    (plane.run / "controlplane-state.json").write_text('{"api": [{"resource": 1')
    await plane.start()
    assert (await plane.get("/v1/resources"))["items"] == []
    assert "cannot be read" in plane.log()


@in_one_loop
async def test_it_stops_while_it_is_listened_to_and_its_socket_is_private(plane: Plane) -> None:
    assert stat.S_IMODE((plane.run / "api.sock").stat().st_mode) == 0o600
    async with plane.api.stream("GET", "/v1/events") as events, plane.proxy() as envoy:
        await anext(events.aiter_lines())
        await envoy.subscribe(CDS)
        await envoy.receive()
        await plane.stop()
    assert plane.process is not None
    assert plane.process.returncode == 0, plane.log()
    assert not (plane.run / "api.sock").exists()


@in_one_loop
async def test_an_address_in_use_is_said(plane: Plane) -> None:
    taken = Plane(plane.run, plane.config, plane.address, free_port(), plane.authority, plane.api)
    process = await taken.spawn()
    async with asyncio.timeout(60):
        assert await process.wait() == 3
    assert "cannot listen on" in plane.log()


@in_one_loop
async def test_info_and_health(plane: Plane) -> None:
    (plane.config / "mesh.yaml").write_text("accessLogFile: /dev/stdout\n")
    await until(lambda: plane.get("/v1/info"), lambda value: value["mesh"].get("accessLogFile") == "/dev/stdout")
    assert (await plane.get("/v1/info"))["trust_domain"] == "cluster.local"
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(f"http://{plane.address}:15014/healthz")).text == "ok\n"


def test_settings_come_from_flags_then_the_environment() -> None:
    settings = parse_settings(
        ["--sds-socket", "/run/sds", "--ads-address", "127.0.0.1:1"],
        {"LATEEN_CONTROLPLANE_API_SOCKET": "/run/api.sock", "LATEEN_CONTROLPLANE_ADS_ADDRESS": "127.0.0.1:2"},
    )
    assert (settings.api_socket, settings.ads_address) == (Path("/run/api.sock"), "127.0.0.1:1")
    assert settings.state_file == Path("/run/controlplane-state.json")
    assert json.loads(settings.render())["sds_socket"] == "/run/sds"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--sds-socket", "s", "--api-socket", "a", "--ads-address", "nowhere"],
        ["--sds-socket", "s", "--api-socket", "a", "--debounce-quiet", "2"],
        ["--sds-socket", "s", "--api-socket", "a", "--log-level", "loud"],
    ],
)
def test_unusable_settings_are_a_usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        parse_settings(arguments, {})
    assert error.value.code == 2
    assert "usage:" in capsys.readouterr().err
