"""A proxy on another host, where the control plane's files are not: its modules come whole, over ADS, and run."""

import asyncio
import contextlib
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from filters.testing.building import module_of
from lateen_filter.testing.plugin import CACHE
from tests.controlplane.pki import Authority
from tests.controlplane.real_envoy import Envoy, free_port, own_address, running_envoy, upstream
from tests.controlplane.sds_server import serving
from tests.controlplane.test_main import Plane
from tests.e2e import stamping
from tests.e2e.stamping import Stamp

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("filters"), pytest.mark.timeout(900)]
PATIENCE = 240.0
_FILTER = Path(stamping.__file__)
MESH = """
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: app-1, namespace: shop}
spec: {address: HOST, labels: {app: app}, serviceAccount: app}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside, namespace: shop}
spec:
  hosts: [outside.example]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 127.0.0.1, ports: {http: PORT}}]
"""
PLUGIN = """
---
apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata: {name: NAME, namespace: shop}
spec:
  match: [{mode: CLIENT}]
  url: file://MODULE
  pluginName: stamp
  failStrategy: FAIL_CLOSE
  pluginConfig: {stamp: NAME}
"""


@contextlib.asynccontextmanager
async def two_hosts(folder: Path, module: Path, *names: str) -> AsyncIterator[tuple[Plane, Envoy]]:
    """A control plane, and an Envoy whose node says nothing of the control plane's directory."""
    authority = Authority()
    (folder / "config").mkdir()
    transport = httpx.AsyncHTTPTransport(uds=str(folder / "api.sock"))
    async with (
        upstream("outside") as port,
        serving(folder / "sds.sock", authority, authority.server()),
        httpx.AsyncClient(transport=transport, base_url="http://lateen", timeout=60) as api,
    ):
        plane = Plane(folder, folder / "config", own_address(), free_port(), authority, api)
        await plane.start()
        try:
            async with running_envoy(folder, authority, plane.ads_port, "DELTA_GRPC") as envoy:
                text = MESH.replace("HOST", envoy.host).replace("PORT", str(port))
                text += "".join(PLUGIN.replace("NAME", name).replace("MODULE", str(module)) for name in names)
                (plane.config / "mesh.yaml").write_text("")
                (plane.config / "all.yaml").write_text(text)
                yield plane, envoy
        finally:
            await plane.stop()


async def until(ask: Callable[[], Any], what: str) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            while not await ask():  # noqa: ASYNC110 - it happens in another process
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"not within {PATIENCE} s: {what}") from None


async def test_it_runs_there_and_an_update_fails_no_request(pytestconfig: pytest.Config) -> None:
    built = await asyncio.to_thread(module_of, Stamp, _FILTER, pytestconfig.cache.mkdir(CACHE))
    with tempfile.TemporaryDirectory(prefix="lateen-", dir="/tmp") as name:
        folder = Path(name)
        module = folder / "stamp.wasm"
        module.write_bytes(built.read_bytes())
        async with two_hosts(folder, module, "one", "two") as (plane, envoy):
            proxy = f"http://{envoy.host}:15001"
            async with httpx.AsyncClient(trust_env=False, timeout=60, proxy=proxy) as http:

                async def stamps() -> list[str]:
                    with contextlib.suppress(httpx.TransportError):
                        answer = await http.get("http://outside.example/")
                        return answer.headers.get_list("x-stamped")
                    return []

                async def runs() -> bool:
                    return bool(await stamps())

                await until(runs, "the filter runs")
                assert await stamps() == ["one"]  # of two filters the outer one writes last
                async with httpx.AsyncClient(trust_env=False, timeout=60) as direct:
                    dump = (await direct.get(f"{envoy.admin}/config_dump?resource=ecds_filters")).text
                assert "inline_bytes" in dump
                assert str(folder) not in dump  # of the control plane's directories it was told nothing
                seen: Counter[int] = Counter()
                stop = asyncio.Event()

                async def load() -> None:
                    while not stop.is_set():
                        seen[(await http.get("http://outside.example/")).status_code] += 1

                loading = asyncio.create_task(load())
                before = {entry["module"] for entry in (await plane.get("/v1/plugins"))["plugins"]}
                # Another module: equal but for a section that nobody reads.
                (folder / "new").write_bytes(built.read_bytes() + b"\0\x04\x03new")
                (folder / "new").replace(module)

                async def updated() -> bool:
                    entries = (await plane.get("/v1/plugins"))["plugins"]
                    (status,) = (await plane.get("/v1/proxies"))["proxies"]
                    fresh = all(entry["module"] not in before and entry["state"] == "READY" for entry in entries)
                    return fresh and bool(status["synced"])

                await until(updated, "the new module is acknowledged")
                count = seen[200]

                async def served() -> bool:
                    return seen[200] > count + 20

                await until(served, "requests go on")
                stop.set()
                await loading
                assert set(seen) == {200}, seen
                assert await stamps() == ["one"]
