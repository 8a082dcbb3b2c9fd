"""Envoy's callbacks, one function each: they find the filter, drive its coroutines and answer continue or pause.

Nothing an author's code does may leave these functions as an exception: it is logged and the request gets the configured failure.
"""

import json
import os
import sys
from collections.abc import Coroutine
from types import CoroutineType, FunctionType, MethodType

from filters.sdk import host
from filters.sdk.config import ConfigError, check_config, decode_config
from filters.sdk.filter import HttpFilter, overrides, registry
from filters.sdk.headers import encode_pairs
from filters.sdk.logs import install_streams, log_exception, say
from filters.sdk.messages import LiveResponse, Request, Response
from filters.sdk.options import OPTIONS_KEY, Options
from filters.sdk.pairs import parse_pairs
from filters.sdk.streaming import BodyChunks, BodyTooLargeError, ChunkWait
from filters.sdk.waiting import BodyWait, CallWait

MOST_ROOTS = 1000
"""Configurations a VM remembers."""
NO_GRPC_STATUS = 0xFFFFFFFF
TOO_LARGE = 413
FAILED = 500


RUNS_REQUEST, RUNS_RESPONSE, KEEPS_STREAM, KEEPS_HEADERS = 1, 2, 4, 8
"""What Wasm has to know of a configuration: which handlers may return a coroutine, and what stays between callbacks."""

plain: dict[object, FunctionType] = {}
"""`async def` handlers that never wait, as plain functions; filled when the module is built."""
ignoring: set[object] = set()
"""Versions of on_response that do not look at the request; filled when the module is built."""


def keeps_streams(kind: type[HttpFilter]) -> bool:
    """Whether something of a request must be remembered from one callback to the next, even if no handler waits."""
    request, response, log = (overrides(kind, name) for name in ("on_request", "on_response", "on_log"))
    return (request and log) or (response and (request or log or kind.on_response not in ignoring))


class Root:
    """One configuration of one filter."""

    __slots__ = ("filter", "keeps", "on_log", "on_request", "on_response", "options")

    def __init__(self, instance: HttpFilter, options: Options) -> None:
        kind = type(instance)
        self.filter = instance
        self.options = options
        self.on_request = instance.on_request if overrides(kind, "on_request") else None
        self.on_response = instance.on_response if overrides(kind, "on_response") else None
        self.on_log = instance.on_log if overrides(kind, "on_log") else None
        # The same objects are handed to all callbacks of a request, if there are more than one.
        self.keeps = keeps_streams(kind)

    def hand_over(self, root: int) -> None:
        """Let Wasm call the handlers itself."""
        request, response = _direct(self.on_request), _direct(self.on_response)
        flags = RUNS_REQUEST * (request is self.on_request) | RUNS_RESPONSE * (response is self.on_response)
        flags |= KEEPS_STREAM * self.keeps
        reads = type(self.filter).on_response not in ignoring or self.on_log is not None
        flags |= KEEPS_HEADERS * (self.on_response is not None and reads)
        host.set_handlers(root, request, response, self.on_log, flags)


def _direct(handler: object) -> object:
    """The handler without a coroutine around it, if it has one and never waits."""
    found = plain.get(getattr(handler, "__func__", None)) if isinstance(handler, MethodType) else None
    return handler if found is None or not isinstance(handler, MethodType) else MethodType(found, handler.__self__)


class Stream:
    """A request that is remembered between callbacks."""

    __slots__ = ("chunks", "failed", "id", "request", "response", "root", "task", "waits")

    def __init__(self, root: Root, stream: int, request: Request | None = None) -> None:
        self.root = root
        self.id = stream
        self.request = request or Request()
        self.response: LiveResponse | None = None
        self.task: Coroutine[object, object, object] | None = None
        self.waits: BodyWait | CallWait | ChunkWait | None = None
        self.chunks: BodyChunks | None = None
        self.failed = False

    def live_response(self) -> LiveResponse:
        if self.response is None:
            self.response = LiveResponse()
        return self.response


roots: dict[int, Root] = {}
streams: dict[int, Stream] = {}
"""Streams with state; Wasm looks at its size to leave callbacks out."""
calls: dict[int, Stream | Coroutine[object, object, object]] = {}
"""HTTP calls under way: of a stream, or of a tick."""
exported: frozenset[str] | None = None
"""Callbacks the module has; None if all. Those no handler can need are left out when it is built."""


def on_start() -> None:
    """A new VM: what the snapshot has baked in and must differ is made anew."""
    install_streams()
    random = sys.modules.get("random")
    if random is not None:
        random.seed(int.from_bytes(os.urandom(32)))  # of bytes it would take a digest, and need _sha2


def on_configure(root: int, size: int) -> int:
    """1 if the configuration fits; Envoy refuses it otherwise and keeps what it has."""
    try:
        raw = host.get_buffer(host.CONFIGURATION, 0, size) if size else None
        found = configured(_text(host.get_property("plugin_root_id")), raw or b"")
        _remember(root, found)
        seconds = found.filter.tick_seconds
        if seconds:
            host.set_tick_period(max(1, int(seconds * 1000)))
    except ConfigError as error:
        for problem in error.problems:
            say(host.ERROR, f"invalid configuration: {problem}")
        return 0
    except BaseException as error:  # noqa: BLE001  (whatever it is, this configuration does not work)
        log_exception(error, "the filter cannot be configured")
        return 0
    return 1


def _remember(root: int, found: Root) -> None:
    """Envoy does not say when a configuration has gone: the oldest make room."""
    roots.pop(root, None)
    while len(roots) >= MOST_ROOTS:
        oldest = next(iter(roots))
        del roots[oldest]
        host.set_handlers(oldest, None, None, None, 0)
    roots[root] = found
    found.hand_over(root)


def configured(name: str, raw: bytes) -> Root:
    """The filter `name` with its configuration."""
    kind = registry.get(name)
    if kind is None and len(registry) == 1:
        kind = next(iter(registry.values()))
    if kind is None:
        raise ConfigError(
            [f"this module has no filter {name!r} (pluginName, root_id); it has: {', '.join(sorted(registry))}"]
        )
    try:
        value = json.loads(raw) if raw.strip() else {}
    except ValueError as error:
        raise ConfigError([f"not JSON: {error}"]) from None
    if not isinstance(value, dict):
        raise ConfigError([f"expected an object, got {value!r}"])
    if problems := check_config(kind.Config):
        raise ConfigError(problems)
    options = decode_config(Options, value.pop(OPTIONS_KEY, {}), OPTIONS_KEY)
    assert isinstance(options, Options)  # noqa: S101  (decode_config returns the class it is given)
    config = decode_config(kind.Config, value)
    if options.cpu_ms is not None:
        host.set_cpu_limit(options.cpu_ms)
    instance = kind.__new__(kind)
    instance.config = config  # before __init__, which may read it
    instance.__init__()  # type: ignore[misc]  # kind() in two steps
    instance.on_start()
    return Root(instance, options)


def on_request_headers(stream: int, count: int, ended: int, parent: int) -> int:
    root = roots.get(parent) or _root_of_stream()
    if root is None:
        return host.CONTINUE
    found = Stream(root, stream, Request(ended=bool(ended)))
    if root.keeps:
        streams[stream] = found
    if root.on_request is None:
        return _answer(found, None)
    try:
        result = root.on_request(found.request)
        if type(result) is CoroutineType:
            found.task = result
            return _advance(found, host.REQUEST, None)
        return _answer(found, result)
    except BaseException as error:  # noqa: BLE001
        return _fail(found, error, host.REQUEST)


def new_request() -> Request:
    """A request for Wasm, which hands it to handlers again and again as long as nobody keeps it."""
    return Request()


def new_response() -> LiveResponse:
    """Likewise."""
    return LiveResponse()


def adopt(stream: int, parent: int, request: Request, response: LiveResponse | None) -> None:
    """A stream that Wasm has no room for any more; `response` once on_response has been called."""
    root = roots.get(parent)
    if root is not None:
        found = streams[stream] = Stream(root, stream, request)
        found.response = response


def on_outcome(  # noqa: PLR0917  (Wasm calls this)
    stream: int, parent: int, sent: int, request: Request, response: LiveResponse | None, value: object, task: object
) -> int:
    """After a handler that Wasm has called, if there is something to do: `sent` says what has come of it.

    0: it has returned `value`. 1: its coroutine `task` waits for `value`. -1: it has raised `value`. No response: it was on_request.
    """
    found = Stream(roots[parent], stream, request)
    found.response = response
    direction = host.REQUEST if response is None else host.RESPONSE
    if found.root.keeps:
        streams[stream] = found
    if isinstance(value, BaseException) and sent < 0:
        return _fail(found, value, direction)
    try:
        if sent == 0:
            return _answer(found, value)
        if not isinstance(task, CoroutineType):
            raise TypeError(f"a filter waits with a coroutine, not {type(task).__name__}")
        found.task = task
        return _wait(found, direction, value)
    except BaseException as error:  # noqa: BLE001
        return _fail(found, error, direction)


def on_log_failed(error: BaseException) -> None:
    """An on_log that Wasm has called has raised this."""
    log_exception(error, "on_log has failed")


def on_request_body(stream: int, size: int, ended: int) -> int:
    return _body(streams.get(stream), host.REQUEST, size, ended=bool(ended))


def on_request_trailers(stream: int, count: int) -> int:
    return _body(streams.get(stream), host.REQUEST, None, ended=True)


def on_response_headers(stream: int, count: int, ended: int, parent: int) -> int:
    found = streams.get(stream)
    if found is None:
        root = roots.get(parent) or _root_of_stream()
        if root is None:
            return host.CONTINUE
        found = Stream(root, stream)  # another filter has answered before this one saw the request
        found.request.keep_headers()
    if found.failed or found.root.on_response is None:
        return host.CONTINUE
    if found.task is not None:  # another filter has answered while on_request was waiting
        _forget(found)
        if found.root.keeps:
            streams[stream] = found
    found.chunks = None
    response = found.live_response()
    response.live._ended = bool(ended)  # noqa: SLF001
    try:
        result = found.root.on_response(found.request, response)
        if type(result) is CoroutineType:
            found.task = result
            return _advance(found, host.RESPONSE, None)
        return _answer(found, result)
    except BaseException as error:  # noqa: BLE001
        return _fail(found, error, host.RESPONSE)


def on_response_body(stream: int, size: int, ended: int) -> int:
    return _body(streams.get(stream), host.RESPONSE, size, ended=bool(ended))


def on_response_trailers(stream: int, count: int) -> int:
    return _body(streams.get(stream), host.RESPONSE, None, ended=True)


def on_http_call_response(root: int, call: int, count: int, size: int, trailers: int) -> int:
    waiting = calls.pop(call, None)
    if waiting is None:
        return 0
    raw = host.get_headers(host.CALL_HEADERS) if count else None
    body = host.get_buffer(host.CALL_BODY, 0, size) if size else None
    answer = (parse_pairs(raw) if raw else [], body or b"")
    if not isinstance(waiting, Stream):
        _advance_tick(waiting, answer)
        return 0
    host.set_context(waiting.id)
    direction = host.REQUEST if waiting.response is None else host.RESPONSE
    waiting.waits = None
    if _advance(waiting, direction, answer) == host.CONTINUE:
        host.continue_stream(direction)
    return 0


def on_tick(root: int) -> int:
    found = roots.get(root)
    if found is not None:
        try:
            result = found.filter.on_tick()
            if type(result) is CoroutineType:
                _advance_tick(result, None)
        except BaseException as error:  # noqa: BLE001
            log_exception(error, "on_tick has failed")
    return 0


def on_log(stream: int, parent: int) -> int:
    found = streams.get(stream)
    root = found.root if found else roots.get(parent)
    if root is not None and root.on_log is not None:
        found = found or Stream(root, stream)
        try:
            root.on_log(found.request, found.live_response())
        except BaseException as error:  # noqa: BLE001
            log_exception(error, "on_log has failed")
    return 0


def on_delete(stream: int) -> int:
    found = streams.pop(stream, None)
    if found is not None:
        _forget(found)
    return 0


def _root_of_stream() -> Root | None:
    """The configuration of the stream at hand, when Wasm no longer knows it: by name, if that is enough."""
    name = _text(host.get_property("plugin_root_id"))
    matching = [root for root in roots.values() if type(root.filter).name == name]
    if len(matching) == 1:
        return matching[0]
    return next(iter(roots.values())) if len(roots) == 1 else None


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")


def _body(stream: Stream | None, direction: int, size: int | None, *, ended: bool) -> int:
    """Body data, or trailers (size None), which end a body too."""
    if stream is None or stream.task is None:
        return host.CONTINUE
    current = host.REQUEST if stream.response is None else host.RESPONSE
    if direction != current:
        return host.CONTINUE
    waits = stream.waits
    live = stream.request if direction == host.REQUEST else stream.live_response().live
    try:
        if stream.chunks is not None and stream.chunks.direction == direction:
            stream.chunks.arrive(size, ended=ended)
            return _wait(stream, direction, waits) if isinstance(waits, ChunkWait) else host.PAUSE
        if isinstance(waits, BodyWait) and size is not None and size > waits.limit:
            stream.waits = None
            return _advance(stream, direction, None, BodyTooLargeError(f"the body is larger than {waits.limit} bytes"))
        live._arrived = size if size is not None else live._arrived  # noqa: SLF001
        if not ended:
            return host.PAUSE
        if isinstance(waits, BodyWait):
            stream.waits = None
            return _advance(stream, direction, host.get_buffer(direction, 0, 0xFFFFFFFF) or b"")
        live._body = host.get_buffer(direction, 0, 0xFFFFFFFF) or b""  # noqa: SLF001  (it waits for something else: kept)
    except BaseException as error:  # noqa: BLE001
        return _fail(stream, error, direction)
    return host.PAUSE


def _advance(stream: Stream, direction: int, value: object, error: Exception | None = None) -> int:
    """Run the coroutine until it waits or ends."""
    task = stream.task
    if task is None:
        return host.CONTINUE
    try:
        waits = task.throw(error) if error else task.send(value)
    except StopIteration as end:
        stream.task = None
        if not stream.root.keeps:
            streams.pop(stream.id, None)
        result = end.value
        left = stream.chunks
    except BaseException as failure:  # noqa: BLE001
        return _fail(stream, failure, direction)
    else:
        return _wait(stream, direction, waits)
    try:
        if left is not None:
            left.settle()
        return _answer(stream, result)
    except BaseException as failure:  # noqa: BLE001
        return _fail(stream, failure, direction)


def _wait(stream: Stream, direction: int, waits: object) -> int:
    """Remember what a coroutine waits for."""
    if not isinstance(waits, (BodyWait, CallWait, ChunkWait)):
        what = f"what gives {type(waits).__name__}{_place(stream.task)}"
        return _fail(stream, TypeError(f"a filter cannot await {what}: only bodies and HTTP calls"), direction)
    if exported is not None and "on_http_call_response" not in exported:
        return _fail(
            stream, RuntimeError("a filter can only wait in an `async def` handler, not in what it returns"), direction
        )
    if isinstance(waits, CallWait):
        calls[waits.call] = stream
    elif waits.direction != direction:
        return _fail(stream, RuntimeError("the request has left: its body can only be read in on_request"), direction)
    stream.waits = waits
    streams[stream.id] = stream
    return _next_chunk(stream, waits.chunks) if isinstance(waits, ChunkWait) else host.PAUSE


def _place(task: object) -> str:
    """Where a coroutine waits: the innermost `await` of it."""
    inner = task
    while isinstance(inner, CoroutineType):
        task, inner = inner, inner.cr_await
    frame = task.cr_frame if isinstance(task, CoroutineType) else None
    return f" ({frame.f_code.co_filename}:{frame.f_lineno})" if frame is not None else ""


def _next_chunk(stream: Stream, chunks: BodyChunks) -> int:
    """Hand out what has come, or let what is done go on and wait."""
    stream.chunks = chunks
    try:
        chunks.settle()
        if not chunks.ready():
            return chunks.pass_on()
        stream.waits = None
        chunk = chunks.take()
    except BodyTooLargeError as error:
        return _advance(stream, chunks.direction, None, error)
    except BaseException as error:  # noqa: BLE001
        return _fail(stream, error, chunks.direction)
    return _advance(stream, chunks.direction, chunk)


def _advance_tick(task: Coroutine[object, object, object], value: object) -> None:
    try:
        waits = task.send(value)
    except StopIteration:
        return
    except BaseException as error:  # noqa: BLE001
        log_exception(error, "on_tick has failed")
        return
    if isinstance(waits, CallWait):
        calls[waits.call] = task
    else:
        what = f"what gives {type(waits).__name__}{_place(task)}"
        log_exception(TypeError(f"on_tick cannot await {what}: only HTTP calls"))


def _answer(stream: Stream, result: object) -> int:
    """What on_request or on_response has returned."""
    if stream.response is None and stream.root.on_response is not None:
        stream.request.keep_headers()
    if result is None:
        return host.CONTINUE
    if not isinstance(result, Response):
        raise TypeError(f"a filter returns a Response or None, not {type(result).__name__}")
    if isinstance(result, LiveResponse):
        return host.CONTINUE
    pairs = result.headers.pairs()
    host.send_response(result.status, "python_filter", result.content, encode_pairs(pairs), NO_GRPC_STATUS)
    return host.PAUSE


def _fail(stream: Stream, error: BaseException, direction: int) -> int:
    """The configured failure: the request goes on as if the filter were not there, or is answered with an error."""
    stream.failed = True
    task, stream.task = stream.task, None
    if not stream.root.keeps:
        streams.pop(stream.id, None)
    if isinstance(error, BodyTooLargeError):
        say(host.INFO, str(error))
    else:
        log_exception(
            error, f"{type(stream.root.filter).name} has failed in {'on_response' if direction else 'on_request'}"
        )
    if task is not None:
        _close(task)
    if isinstance(error, BodyTooLargeError):
        host.send_response(TOO_LARGE, "python_filter_body_limit", b"payload too large\n", bytes(4), NO_GRPC_STATUS)
        return host.PAUSE
    if stream.root.options.on_error == "open":
        return host.CONTINUE
    host.send_response(FAILED, "python_filter_error", b"internal error\n", bytes(4), NO_GRPC_STATUS)
    return host.PAUSE


def _forget(stream: Stream) -> None:
    """The client has gone, or another has answered: nobody waits for this coroutine any more."""
    streams.pop(stream.id, None)
    if isinstance(stream.waits, CallWait):
        calls.pop(stream.waits.call, None)
    task, stream.task, stream.waits = stream.task, None, None
    if task is not None:
        _close(task)


def _close(task: Coroutine[object, object, object]) -> None:
    try:
        task.close()
    except BaseException as error:  # noqa: BLE001
        log_exception(error, "a filter has failed while it was being cancelled")
