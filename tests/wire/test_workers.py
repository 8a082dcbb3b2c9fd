"""The supervisor of worker processes, with the smallest service there is; extauthz has a test with the real one."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest

from lateen.wire.workers import parse_workers, worker_name
from tests.wire.running import method
from tests.wire.tiny_service import SLOW, WHO

ROOT = Path(__file__).parents[2]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def supervisor(*arguments: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "tests.wire.tiny_service", *arguments], cwd=ROOT, stderr=subprocess.DEVNULL
    )


def workers(folder: Path) -> list[int]:
    return [int(text) for file in sorted(folder.glob("*.pid")) if (text := file.read_text())]


def is_running(process: int) -> bool:
    return Path(f"/proc/{process}/exe").exists()


@pytest.mark.parametrize("sort", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_supervisor(tmp_path: Path, sort: signal.Signals) -> None:
    """However it ends: nobody must be left on the port with nobody to restart him."""
    process = supervisor(str(tmp_path))
    try:
        until(lambda: len(workers(tmp_path)) == 2)
        started = workers(tmp_path)
        process.send_signal(sort)
        assert process.wait(40) == (-signal.SIGKILL if sort is signal.SIGKILL else 0)
        until(lambda: not any(is_running(worker) for worker in started))
    finally:
        process.kill()
        process.wait()


def test_a_worker_that_cannot_start_is_not_started_without_pause(tmp_path: Path) -> None:
    process = supervisor("--fail", str(tmp_path))
    try:
        until(lambda: (tmp_path / "starts").exists() and len((tmp_path / "starts").read_text()) >= 4)
        time.sleep(1)
        assert len((tmp_path / "starts").read_text()) < 20
        process.terminate()
        assert process.wait(40) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("text", ["0", "-1", "65", "two", "", "1.5"])
def test_a_number_of_workers_that_makes_no_sense(text: str) -> None:
    with pytest.raises(ValueError, match="between 1 and 64"):
        parse_workers(text)


def test_names_of_workers() -> None:
    assert [worker_name("lateen-extauthz-0", number) for number in (None, 0, 1)] == ["lateen-extauthz-0"] * 2 + [
        "lateen-extauthz-0-w1"
    ]


@dataclass(frozen=True)
class Running:
    """A supervisor and its two workers; the client is for its pages."""

    folder: Path
    pages: httpx.Client


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("workers")
    process = supervisor(str(folder))
    try:
        until(lambda: len(workers(folder)) == 2)
        with httpx.Client(base_url=f"http://{(folder / 'pages').read_text()}", timeout=20) as pages:
            until(lambda: is_ready(pages))
            yield Running(folder, pages)
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()
            process.wait()


def is_ready(pages: httpx.Client) -> bool:
    return pages.get("/readyz").status_code == 200


def test_a_second_supervisor_does_not_share_the_port_of_the_first(running: Running, tmp_path: Path) -> None:
    """SO_REUSEPORT alone would let it, and it would take half the connections."""
    address = (running.folder / "address").read_text()
    command = [sys.executable, "-m", "tests.wire.tiny_service", "--address", address, str(tmp_path)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=40, check=False)
    assert process.returncode == 1
    assert "cannot listen on 127.0.0.1:" in process.stderr
    assert workers(tmp_path) == []


def test_a_socket_cannot_be_shared(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.wire.tiny_service", "--address", "unix:/a", str(tmp_path)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=40, check=False)
    assert process.returncode == 1
    assert 'several workers cannot share "unix:/a": give host:port, or one worker' in process.stderr


def test_pages_of_all_workers_as_one(running: Running) -> None:
    pages = running.pages
    assert pages.get("/healthz").json() == {"missing_workers": 0, "workers": [{"status": 200}] * 2}
    for number in range(2):
        assert pages.get(f"/v1/{number}/a%20b?c=d").json() == {"worker": number}
    assert pages.get("/v1/2/a%20b?c=d").status_code == 404
    assert pages.get("/metrics").text.count("lateen_wire_open_connections{worker=") == 2
    # A worker that hangs: the service is not ready, and the other one's pages are there.
    hung = workers(running.folder)[0]
    os.kill(hung, signal.SIGSTOP)
    try:
        unready = pages.get("/readyz")
        assert (unready.status_code, unready.json()["missing_workers"]) == (503, 1)
        assert pages.get("/v1/1/a%20b?c=d").json() == {"worker": 1}
    finally:
        os.kill(hung, signal.SIGCONT)
    until(lambda: is_ready(pages))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_a_worker_is_replaced_under_load(running: Running, how: signal.Signals) -> None:
    """Asked to go, it ends its calls, and none fails; killed, only calls that were on it fail, and they may be tried again."""
    folder, pages = running.folder, running.pages
    address = (folder / "address").read_text()
    before = workers(folder)
    codes: list[grpc.StatusCode] = []
    seen: dict[bytes, int] = {}
    stop = False

    async def calling(number: int) -> None:
        """On a connection of its own; now and then on a new one, so that every worker gets some."""
        while not stop:
            options = (("grpc.use_local_subchannel_pool", 1), ("number", number))
            async with grpc.aio.insecure_channel(address, options=options) as channel:
                await channel.channel_ready()
                for call in range(20):
                    try:
                        who = await method(channel, SLOW if call == 5 else WHO)(b"", timeout=30, wait_for_ready=True)
                        seen[who] = seen.get(who, 0) + 1
                    except grpc.aio.AioRpcError as error:
                        codes.append(error.code())
                    await asyncio.sleep(0.01)

    async def until_seen(process: int) -> None:
        async with asyncio.timeout(40):
            while b"%d" % process not in seen:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    tasks = [asyncio.create_task(calling(number)) for number in range(8)]
    for process in before:
        await until_seen(process)
    os.kill(before[0], how)
    async with asyncio.timeout(40):
        while workers(folder)[0] == before[0]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await until_seen(workers(folder)[0])
    stop = True
    await asyncio.gather(*tasks)
    assert workers(folder)[1] == before[1]
    assert set(codes) <= (set() if how is signal.SIGTERM else {grpc.StatusCode.UNAVAILABLE})
    assert len(codes) <= 8
    # Nothing that the dead one had said is lost, and what the new one says comes on top.
    text = (await asyncio.to_thread(pages.get, "/metrics")).text
    counted = re.search(r"^lateen_wire_calls_total (\S+)$", text, re.MULTILINE)
    assert counted is not None
    living = sum(count for who, count in seen.items() if int(who) in workers(folder))
    assert float(counted[1]) >= living
