"""The process: how it ends."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("service", ["ratelimit", "extauthz"])
def test_sigterm_ends_a_service_that_still_waits_for_its_certificate(tmp_path: Path, service: str) -> None:
    command = [
        sys.executable,
        "-m",
        service,
        "--ads-address",
        "127.0.0.1:1",
        "--sds-socket",
        str(tmp_path / "none.sock"),
    ]
    command += ["--redis-url", "memory://"] if service == "ratelimit" else []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:  # it asks for a certificate, in vain
                if "sds stream ended" in line:
                    break
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
