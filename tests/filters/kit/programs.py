"""Runs programs of `cases.Program`."""

import json
from collections.abc import Sequence
from typing import Any

from lateen_filter.testing import Answer, FilterHost


def play(
    host: FilterHost, request: Sequence[Any] = (), response: Sequence[Any] = (), log: Sequence[Any] = (), **sent: Any
) -> tuple[Answer, list[Any]]:
    """Run a program; the answer and what its steps have printed."""
    before = len(host.logs)
    program = json.dumps({"request": request, "response": response, "log": log})
    headers = [("x-program", program), *sent.pop("headers", ())]
    answer = host.request(sent.pop("method", "GET"), sent.pop("path", "/"), headers=headers, **sent)
    return answer, host.logs[before:]


def results(lines: Sequence[str]) -> list[Any]:
    """What came after the steps."""
    return [json.loads(line[line.index("] ") + 2 :]) for line in lines]
