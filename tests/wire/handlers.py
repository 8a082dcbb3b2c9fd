"""Handlers that answer every question the tests have. The same ones are served by `lateen.wire` and by grpcio."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

from lateen.wire.call import Call, RpcError, StatusCode

ECHO, LATER, FAIL, FAIL_LATER, BUG = "/t.T/Echo", "/t.T/Later", "/t.T/Fail", "/t.T/FailLater", "/t.T/Bug"
WAIT, SLEEP, MANY, METADATA, DEADLINE, PEER, STATE = (
    "/t.T/Wait", "/t.T/Sleep", "/t.T/Many", "/t.T/Metadata", "/t.T/Deadline", "/t.T/Peer", "/t.T/State",
)  # fmt: skip


def test_handlers() -> Mapping[str, Callable[[Call, bytes], bytes | Awaitable[bytes]]]:
    """New handlers, with counters of their own that STATE shows."""
    seen: Counter[str] = Counter()

    def fail(_: Call, data: bytes) -> bytes:
        code, *message = data.decode().split(" ", 1)
        raise RpcError(StatusCode[code], "".join(message))

    async def later(_: Call, data: bytes) -> bytes:
        await asyncio.sleep(0)
        return data

    async def fail_later(call: Call, data: bytes) -> bytes:
        await asyncio.sleep(0)
        return fail(call, data)

    def bug(_: Call, data: bytes) -> bytes:
        raise KeyError("our own secret")

    async def wait(_: Call, data: bytes) -> bytes:
        seen["waiting"] += 1
        seen["waited"] += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen["cancelled"] += 1
            raise
        finally:
            seen["waiting"] -= 1
        return data

    async def sleep(_: Call, data: bytes) -> bytes:
        await asyncio.sleep(float(data))
        return data

    def deadline(call: Call, data: bytes) -> bytes:
        """Whether the seconds left are between 0 and what the client says."""
        if call.deadline is None:
            return b"none"
        return b"yes" if 0 < call.deadline - time.monotonic() <= float(data) else b"no"

    return {
        ECHO: lambda _, data: data,
        LATER: later,
        FAIL: fail,
        FAIL_LATER: fail_later,
        BUG: bug,
        WAIT: wait,
        SLEEP: sleep,
        MANY: lambda _, data: b"x" * int(data),
        METADATA: lambda call, data: json.dumps(
            [call.metadata(data.decode()), *call.metadata_values(data.decode())]
        ).encode(),
        DEADLINE: deadline,
        PEER: lambda call, _: (call.peer_identity or "none").encode(),
        STATE: lambda _, __: json.dumps(seen).encode(),
    }
