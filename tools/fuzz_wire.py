"""Coverage-guided fuzzing of `lateen.wire` with atheris: `python -m tools.fuzz_wire [libFuzzer options] [corpus]`, see `make fuzz`.

The rules are those of tests/wire/fuzzed.py, the first inputs the plays of tests/wire/plays. A broken rule, an exception, an input that
takes more than ten seconds or more than a gigabyte ends it with the input in a file `crash-*`, `timeout-*` or `oom-*`.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["lateen.wire", "hpack"]):
    from tests.wire import frames, fuzzed
    from tests.wire.script import all_plays, sent

_BOUNDS = ("-timeout=10", "-rss_limit_mb=1024", "-max_len=256")


def one_input(data: bytes) -> None:
    """A play of the connection, or header blocks."""
    if data[:1] < b"\x60":
        fuzzed.play(data[1:])
    else:
        fuzzed.header_blocks(data[1:])


def write_seeds(folder: Path) -> None:
    """The plays as raw moves, and the header blocks that they use."""
    for play in all_plays():
        coder = frames.Coder()
        parts = [sent(line, coder) for line in play.lines if line.mark == ">"]
        pieces = [part[i : i + 255] for part in parts for i in range(0, min(len(part), 600), 255)]
        moves = b"".join(bytes([0, len(piece)]) + piece for piece in pieces)
        (folder / play.name).write_bytes(b"\x00" + (b"\x02" if play.raw else b"\x03") + moves)
    for number, block in enumerate(fuzzed.BLOCKS):
        (folder / f"block-{number}").write_bytes(b"\xff\x01" + bytes([len(block)]) + block)


def main() -> None:
    """Run libFuzzer over a corpus in a folder of its own, unless one is given."""
    with tempfile.TemporaryDirectory(prefix="fuzz-wire-") as seeds:
        write_seeds(Path(seeds))
        atheris.Setup([sys.argv[0], *_BOUNDS, *sys.argv[1:], seeds], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
