"""Every play in `plays/`, with the client's bytes as they come, one by one, and all at once: what happens must be the same."""

from collections.abc import Callable, Iterable, Iterator

import pytest

from lateen.wire.call import Call, StatusCode
from lateen.wire.connection import Cancelled, Closed, Connection, Event
from lateen.wire.limits import Limits
from tests.wire import frames
from tests.wire.frames import Coder
from tests.wire.script import Line, Play, all_plays, described, payload, sent

PLAYS = {play.name: play for play in all_plays()}
CUTS: dict[str, Callable[[bytes], Iterable[bytes]]] = {
    "whole": lambda data: [data],
    "bytes": lambda data: (data[i : i + 1] for i in range(len(data))),
    "sevens": lambda data: (data[i : i + 7] for i in range(0, len(data), 7)),
}


class Stage:
    """A connection that plays are played on."""

    def __init__(self, play: Play, cut: Callable[[bytes], Iterable[bytes]]) -> None:
        self._limits = Limits(**play.limits)
        self._connection = Connection(self._limits)
        self._cut = cut
        self._now = 0.0
        self._coder = Coder()
        self._events: list[str] = []
        self._received = bytearray()
        self._came: list[str] = []
        self._closed = False
        if not play.raw:
            self._send(frames.PREFACE + frames.settings() + frames.settings(ack=True))
            self._take()
            self._came.clear()

    def play(self, lines: Iterable[Line]) -> None:
        for line in lines:
            self._see_closed()
            if line.mark == ">":
                self._send(sent(line, self._coder))
            elif line.mark == "!":
                self._do(line)
            elif line.mark == "=":
                assert self._events, f"{line}: nothing happened"
                assert self._events.pop(0) == " ".join(line.words), str(line)
            else:
                self._expect(line)
        self._take()
        self._see_closed()
        assert not self._events, "more happened"
        assert not [came for came in self._came if not _passed_over(came)], "more came back"

    def _send(self, data: bytes) -> None:
        for part in self._cut(data):
            self._note(self._connection.receive(part, self._now))

    def _note(self, events: Iterable[Event]) -> None:
        for event in events:
            match event:
                case Call():
                    message = event.message
                    shown = message.decode("latin-1") if len(message) < 100 else f"{len(message)} bytes"
                    self._events.append(f"CALL {event.stream_id} {event.path} {shown}".strip())
                case Cancelled():
                    self._events.append(f"CANCELLED {event.stream_id}")
                case Closed():
                    self._see_closed()

    def _see_closed(self) -> None:
        """An answer may end a connection too: then there is no event to say so."""
        if self._connection.closed is not None and not self._closed:
            self._closed = True
            self._events.append("CLOSED")

    def _do(self, line: Line) -> None:
        match line.words:
            case ("answer", stream, *message):
                self._connection.answer(int(stream), payload(message[0]) if message else b"")
            case ("fail", stream, code, *message):
                self._connection.fail(int(stream), StatusCode[code], " ".join(message))
            case ("drain",):
                self._connection.drain(self._now)
            case ("after", seconds):
                self._now += float(seconds)
                self._note(self._connection.on_time(self._now))
            case _:
                raise ValueError(f"{line}: nobody can do that")

    def _take(self) -> None:
        self._received += self._connection.data_to_send()
        for frame in frames.read_frames(self._received):
            self._came.append(" ".join(described(frame, self._coder)))

    def _expect(self, line: Line) -> None:
        self._take()
        wanted = set(line.words)
        while self._came:
            came = self._came.pop(0)
            words = came.split()
            if words[0] == line.words[0] and wanted <= set(words):
                return
            assert _passed_over(came), f"{line}: came {came}"
        raise AssertionError(f"{line}: nothing came")


def _passed_over(came: str) -> bool:
    return came.startswith("WINDOW_UPDATE") or came == "SETTINGS ACK"


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", PLAYS)
def test_play(name: str, cut: str) -> None:
    Stage(PLAYS[name], CUTS[cut]).play(PLAYS[name].lines)


def test_there_are_plays() -> None:
    assert len(PLAYS) > 40


def _all_words(plays: Iterable[Play]) -> Iterator[str]:
    for play in plays:
        for line in play.lines:
            yield from line.words


def test_the_plays_end_connections_and_streams_for_every_reason() -> None:
    words = set(_all_words(PLAYS.values()))
    assert {"PROTOCOL_ERROR", "FLOW_CONTROL_ERROR", "STREAM_CLOSED", "FRAME_SIZE_ERROR", "REFUSED_STREAM"} <= words
    assert {"CANCEL", "COMPRESSION_ERROR", "ENHANCE_YOUR_CALM", "NO_ERROR"} <= words
