"""`python -m lateen.controlplane`."""

import sys

from lateen.controlplane.main import main

if __name__ == "__main__":
    sys.exit(main())
