"""Run componentize-py with its randomness taken from a seed: `python -m filters.toolchain.componentize SEED ARGUMENT...`."""

import sys
from pathlib import Path

from componentize_py import componentize_py as extension
from componentize_py import script

from filters.toolchain.seeding import seed_process

UNSEEDED = "this processor or system cannot be given a seed"


def main() -> None:
    """Hand the arguments after the seed to componentize-py."""
    if not seed_process(Path(str(extension.__file__)).resolve(), int(sys.argv[1])):
        sys.stderr.write(f"{UNSEEDED}\n")
    sys.argv = ["componentize-py", *sys.argv[2:]]
    sys.exit(script())


if __name__ == "__main__":
    main()
