"""Bodies read piece by piece, each changed or let pass, without ever holding all of it."""

from collections.abc import Callable, Generator

from filters.sdk import host

ALL = 0xFFFFFFFF


class BodyTooLargeError(Exception):
    """A body is larger than the limit it was asked for with."""


class Chunk:
    """A piece of a body, as Envoy has it. It goes on when the loop asks for the next one, ends or is left."""

    __slots__ = ("_data", "_replaceable", "changed", "last", "settled")

    def __init__(self, data: bytes, *, last: bool, replaceable: bool) -> None:
        self._data = data
        self._replaceable = replaceable
        self.last = last
        """Whether the body ends with it; this one may be empty."""
        self.changed = self.settled = False

    @property
    def data(self) -> bytes:
        """The bytes. With `replace=True` others may be set, more or fewer; b"" holds the chunk back.

        The last chunk of a message with trailers is empty and has to stay so: Envoy lets nothing follow what has gone on.
        """
        return self._data

    @data.setter
    def data(self, value: bytes) -> None:
        if not isinstance(value, bytes):
            raise TypeError(f"a chunk must be bytes, not {type(value).__name__}")
        if not self._replaceable or self.settled:
            raise RuntimeError(
                "this chunk cannot be replaced: use body_chunks(replace=True), before the next is asked for"
            )
        self._data = value
        self.changed = True


class BodyChunks:
    """The iterator of `body_chunks`, and its state between Envoy's callbacks.

    Of the bytes in Envoy's buffer, `_done` may go on, the `_size` after them are in the author's hands, the rest is new.
    """

    __slots__ = (
        "_available",
        "_by_trailers",
        "_chunk",
        "_done",
        "_ended",
        "_held",
        "_limit",
        "_replace",
        "_size",
        "_start",
        "_total",
        "direction",
    )

    def __init__(
        self,
        direction: int,
        start: Callable[[], tuple[int, bool]] | None = None,
        *,
        limit: int | None = None,
        replace: bool = False,
    ) -> None:
        self.direction = direction
        self._start = start  # None: the message has no body
        self._limit = limit
        self._replace = replace
        self._chunk: Chunk | None = None
        self._available = self._done = self._size = self._total = 0
        self._ended = self._by_trailers = False
        self._held = True

    def __aiter__(self) -> "BodyChunks":
        return self

    async def __anext__(self) -> Chunk:
        if self._start is None or (self._chunk is not None and self._chunk.last):
            raise StopAsyncIteration
        if self._chunk is None:
            self._available, self._ended = self._start()
        return await ChunkWait(self)

    # What dispatch does with it

    def arrive(self, size: int | None, *, ended: bool) -> None:
        """Envoy's buffer holds `size` bytes; None: as before, trailers have come."""
        if size is not None:
            self._available = size
        else:
            self._by_trailers = True
        self._ended = ended

    def ready(self) -> bool:
        """Whether there is something to hand out."""
        return self._ended or self._available > self._done

    def take(self) -> Chunk:
        """The next chunk; BodyTooLargeError if that makes more than the limit."""
        size = self._available - self._done
        self._total += size
        if self._limit is not None and self._total > self._limit:
            raise BodyTooLargeError(f"the body is larger than {self._limit} bytes")
        data = (host.get_buffer(self.direction, self._done, size) or b"") if size else b""
        self._size = len(data)
        self._chunk = Chunk(data, last=self._ended, replaceable=self._replace)
        return self._chunk

    def settle(self) -> None:
        """The author is done with the chunk: what has become of it is written to Envoy's buffer."""
        chunk = self._chunk
        if chunk is None or chunk.settled:
            return
        chunk.settled = True
        if chunk.changed and self._by_trailers and not self._available:
            if chunk.data:
                raise RuntimeError(
                    "this message has trailers: nothing can follow what has gone on, so its last chunk is empty and stays so; "
                    "use body() to change the end of such messages"
                )
        elif chunk.changed:
            # Only all of a buffer can be replaced; more may have come while the filter waited for something else.
            whole = (host.get_buffer(self.direction, 0, ALL) or b"") if self._available else b""
            after = whole[self._done + self._size :]
            host.set_buffer(self.direction, 0, ALL, whole[: self._done] + chunk.data + after)
            self._available += len(chunk.data) - self._size
        self._done += len(chunk.data)
        self._size = 0

    def pass_on(self) -> int:
        """Nothing is left to hand out: what is done goes on, and the headers with it; before the first chunk they wait."""
        held, self._held = self._held, False
        self._available = self._done = 0
        return host.PAUSE if held else host.CONTINUE


class ChunkWait:
    """Awaiting this hands it to `dispatch`, whose answer is the chunk."""

    __slots__ = ("chunks",)

    def __init__(self, chunks: BodyChunks) -> None:
        self.chunks = chunks

    @property
    def direction(self) -> int:
        return self.chunks.direction

    def __await__(self) -> Generator["ChunkWait", Chunk, Chunk]:
        return (yield self)
