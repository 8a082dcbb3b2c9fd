"""The smallest service with workers: `python -m tests.wire.tiny_service [--fail] FOLDER`. A worker leaves its process id in FOLDER."""

import asyncio
import os
import sys
from pathlib import Path

from lateen.wire.workers import Service, run_workers, stop_with_supervisor


async def work(folder: Path, number: int) -> None:
    stopped = asyncio.Event()
    stop_with_supervisor(stopped.set)
    (folder / f"{number}.pid").write_text(str(os.getpid()))
    await stopped.wait()


def main(arguments: list[str]) -> None:
    if "--worker" not in arguments:
        asyncio.run(run_workers(Service("tests.wire.tiny_service", arguments, 2, "127.0.0.1:0", 5.0)))
        return
    folder = Path(next(argument for argument in arguments if argument.startswith("/")))
    if "--fail" in arguments:
        with (folder / "starts").open("a") as file:
            file.write("x")
        sys.exit(1)
    asyncio.run(work(folder, int(arguments[arguments.index("--worker") + 1])))


if __name__ == "__main__":
    main(sys.argv[1:])
