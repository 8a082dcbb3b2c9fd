"""The same source and seed give the same module, byte for byte."""

import hashlib
from pathlib import Path

import pytest

from filters.toolchain.build import Built, build

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("filters"), pytest.mark.timeout(600)]


def test_a_second_build_gives_the_same_bytes(built: Built) -> None:
    again = build(Path(__file__).with_name("behaviour") / "behaviour.py", seed=built.seed)
    digests = [hashlib.sha256(found.linked.module).hexdigest() for found in (built, again)]
    assert digests[0] == digests[1]
