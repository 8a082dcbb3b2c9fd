"""Coverage-guided fuzzing of `lateen.wire` with atheris: `python -m tools.fuzz_wire LAYER [libFuzzer options] [corpus]`.

A layer is a function of tests/wire/fuzzed.py with the rules that must hold, and the modules whose branches guide the fuzzer: few of them,
and short inputs, so that there are many executions. The first inputs are the plays of tests/wire/plays. A broken rule, an exception, an
input that takes more than ten seconds or more than a gigabyte ends it with the input in a file `crash-*`, `timeout-*` or `oom-*`.
`make fuzz-wire` does it for every layer.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import atheris

_BOUNDS = ("-timeout=10", "-rss_limit_mb=1024")


@dataclass(frozen=True, slots=True)
class Layer:
    """What is fuzzed: the function of `fuzzed`, modules of `lateen.wire`, and the longest input."""

    function: str
    modules: tuple[str, ...]
    most_bytes: int


LAYERS = {
    "frames": Layer("frame_bytes", ("connection", "speaker", "frames", "streams", "sending", "rates"), 96),
    "headers": Layer("header_blocks", ("headers", "fields", "walk"), 96),
    "connection": Layer("play", ("",), 192),
}


def load(layer: Layer) -> tuple[Callable[[bytes], None], list[bytes]]:
    """The function to fuzz, with its layer instrumented, and the first inputs."""
    with atheris.instrument_imports(include=[f"lateen.wire.{name}".rstrip(".") for name in layer.modules]):
        from tests.wire import fuzzed  # noqa: PLC0415 - only what is imported in here is instrumented
    seeds = {"frame_bytes": _frame_seeds, "header_blocks": _block_seeds, "play": _play_seeds}
    return getattr(fuzzed, layer.function), list(seeds[layer.function]())


def _sent() -> Iterator[tuple[bool, list[bytes]]]:
    """What the client of each play sends, and whether it opens the connection itself."""
    from tests.wire import frames  # noqa: PLC0415 - after the instrumented ones
    from tests.wire.script import all_plays, sent  # noqa: PLC0415

    for play in all_plays():
        coder = frames.Coder()
        yield play.raw, [sent(line, coder) for line in play.lines if line.mark == ">"]


def _frame_seeds() -> Iterator[bytes]:
    for raw, parts in _sent():
        yield from (bytes([0 if raw else 1]) + part for part in (*parts, b"".join(parts)) if part)


def _block_seeds() -> Iterator[bytes]:
    from tests.wire import fuzzed  # noqa: PLC0415

    for block in fuzzed.BLOCKS:
        yield b"\x00" + bytes([len(block)]) + block
        yield b"\x01" + bytes([len(block)]) + block


def _play_seeds() -> Iterator[bytes]:
    for raw, parts in _sent():
        pieces = [part[i : i + 255] for part in parts for i in range(0, min(len(part), 600), 255)]
        yield (b"\x02" if raw else b"\x03") + b"".join(bytes([0, len(piece)]) + piece for piece in pieces)


def main() -> None:
    """Run libFuzzer over a corpus in a folder of its own, unless one is given; tell the longest time and the largest size at the end."""
    layer = LAYERS[sys.argv[1]]
    one_input, seeds = load(layer)
    runs, slowest = 0, 0.0

    def timed(data: bytes) -> None:
        nonlocal runs, slowest
        before = time.thread_time()
        one_input(data)
        runs, slowest = runs + 1, max(slowest, time.thread_time() - before)
        if runs % 100_000 == 0:
            largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            sys.stderr.write(
                f"{sys.argv[1]}: {runs} executions, slowest {slowest * 1e3:.1f} ms, at most {largest} MiB\n"
            )

    with tempfile.TemporaryDirectory(prefix="fuzz-wire-") as folder:
        for number, seed in enumerate(seeds):
            (Path(folder) / str(number)).write_bytes(seed)
        options = [*_BOUNDS, f"-max_len={layer.most_bytes}", *sys.argv[2:], folder]
        atheris.Setup([sys.argv[0], *options], timed)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
