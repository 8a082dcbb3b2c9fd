"""Run componentize-py in this process: `python -m filters.toolchain.componentize SEED ARGUMENT...`."""

import sys

from componentize_py import script


def main() -> None:
    """Hand the arguments after the seed to componentize-py."""
    sys.argv = ["componentize-py", *sys.argv[2:]]
    sys.exit(script())


if __name__ == "__main__":
    main()
