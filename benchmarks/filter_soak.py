"""Hundreds of thousands of mixed requests through a filter, and whether memory grows: `python -m benchmarks.filter_soak`.

Needs wrk. Not part of the benchmarks or of CI: it takes minutes.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

from filters.toolchain.build import build
from filters.toolchain.local_envoy import Chain, Placed, bootstrap
from lateen.envoy_binary import envoy_path

LISTENER = "soak"
WORKERS = 2
MIX = """
local body = string.rep("x", 20000)
local requests = {
  {"GET", "/headers"}, {"GET", "/answer?a=1&b=%20"}, {"POST", "/body", body}, {"POST", "/chunks", body}, {"GET", "/call"},
  {"GET", "/shared"}, {"GET", "/properties"}, {"GET", "/error"}, {"GET", "/response"}, {"GET", "/nothing"},
}
local place = 0
request = function()
  place = place % #requests + 1
  local chosen = requests[place]
  return wrk.format(chosen[1], chosen[2], nil, chosen[3])
end
"""


class State(NamedTuple):
    """What is held: resident KiB of Envoy, the Wasm memories' part of it, objects of Python, and the shared counter."""

    requests: int
    resident: int
    wasm: int
    objects: int
    shared: int


def main(arguments: list[str] | None = None) -> int:
    """Run; 1 if memory has grown between the middle and the end."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.filter_soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=500_000, help="how many (default: %(default)s)")
    options = parser.parse_args(arguments)
    wrk = shutil.which("wrk")
    if wrk is None:
        parser.error("wrk is not installed")
    with tempfile.TemporaryDirectory(prefix="lateen-soak-") as name:
        directory = Path(name)
        module = directory / "mix.wasm"
        module.write_bytes(build(Path(__file__).with_name("filter_mix.py"), seed=1).linked.module)
        (directory / "mix.lua").write_text(MIX)
        chain = Chain([Placed("mix", {"lateen": {"cpuMs": 10_000}})], name=LISTENER)
        (directory / "envoy.json").write_text(bootstrap(module, [chain], echo_path=str(directory / "echo")))
        command = [str(envoy_path()), "-c", str(directory / "envoy.json"), "--concurrency", str(WORKERS)]
        command += ["--disable-hot-restart", "-l", "off", "--admin-address-path", str(directory / "admin")]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            port = _port(directory / "admin")
            states = _run(wrk, directory / "mix.lua", port, process.pid, options.requests)
        finally:
            process.terminate()
            process.wait(timeout=60)
    for state in states:
        sys.stdout.write(json.dumps(state._asdict()) + "\n")
    middle, end = states[len(states) // 2], states[-1]
    grown = end.resident - middle.resident
    sys.stdout.write(f"from the middle to the end: {grown:+} KiB resident, {end.objects - middle.objects:+} objects\n")
    return 1 if grown > middle.resident // 50 else 0


def _run(wrk: str, script: Path, port: int, pid: int, requests: int) -> list[State]:
    """Bursts until there were enough requests; a state after each tenth of them."""
    done = 0
    states: list[State] = []
    while done < requests:
        result = subprocess.run(
            [wrk, "-t1", "-c16", "-d10s", "--timeout", "60s", "-s", str(script), f"http://127.0.0.1:{port}/"],
            capture_output=True,
            text=True,
            check=True,
        )
        found = re.search(r"(\d+) requests in", result.stdout)
        if found is None or "Socket errors" in result.stdout:
            raise RuntimeError(result.stdout)
        done += int(found[1])
        if done >= len(states) * requests / 10:
            time.sleep(2)  # freed memory goes back
            states.append(_state(port, pid, done))
            sys.stderr.write(f"{done} requests, {states[-1].resident} KiB\n")
    return states


def _state(port: int, pid: int, requests: int) -> State:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/state", timeout=60) as answer:
        told = json.load(answer)
    status = Path(f"/proc/{pid}/status").read_text()
    resident = re.search(r"VmRSS:\s+(\d+)", status)
    return State(
        requests, int(resident[1]) if resident else 0, _wasm_memory(pid), int(told["objects"]), int(told["count"])
    )


def _wasm_memory(pid: int) -> int:
    """Resident KiB of mappings of the size of a module's first memory or more, writable and of no file: 12 MiB to 1 GiB."""
    total, large = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        head = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ (\d+)", line)
        if head:
            size = int(head[2], 16) - int(head[1], 16)
            large = head[3].startswith("rw") and head[4] == "0" and 12 << 20 <= size < 1 << 30
        elif large and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


def _port(admin: Path) -> int:
    """The listener's, when Envoy is ready."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            address = admin.read_text()
            with urllib.request.urlopen(f"http://{address}/ready", timeout=10) as ready:
                if ready.status == 200:
                    break
        except OSError:
            time.sleep(0.1)
    with urllib.request.urlopen(f"http://{address}/listeners?format=json", timeout=10) as answer:
        for item in json.load(answer)["listener_statuses"]:
            if item["name"] == LISTENER:
                return int(item["local_address"]["socket_address"]["port_value"])
    raise RuntimeError("no listener")


if __name__ == "__main__":
    sys.exit(main())
