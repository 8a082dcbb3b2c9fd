"""`python -m ca`."""

import sys

from ca.main import main

if __name__ == "__main__":
    sys.exit(main())
