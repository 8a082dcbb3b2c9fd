"""`python -m lateen.agent`."""

import sys

from lateen.agent.main import main

if __name__ == "__main__":
    sys.exit(main())
