"""`python -m lateen.local DIR [--exec CMD] [--mode loopback|netns] [--ahead-of-time]`: the runner without the `lateen` command."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lateen.local import commands, up


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lateen.local", description="run the mesh of a directory")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--exec", dest="command", help="shell command to run when every proxy is in sync")
    parser.add_argument("--mode", choices=commands.MODES, default=commands.LOOPBACK)
    parser.add_argument("--timeout", type=float, default=up.DEFAULT_TIMEOUT)
    parser.add_argument("--ahead-of-time", action="store_true", help="keep machine code of Wasm modules")
    options = parser.parse_args(arguments)
    return up.run(
        options.directory,
        exec_command=options.command,
        mode=options.mode,
        timeout=options.timeout,
        ahead_of_time=options.ahead_of_time,
    )


if __name__ == "__main__":
    sys.exit(main())
