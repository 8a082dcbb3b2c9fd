"""`python -m lateen.controlplane`."""

import os
import sys

# Read when gRPC is imported. Its own lines are no JSON, and what they say of a failed call its caller logs, too.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from lateen.controlplane.main import main

if __name__ == "__main__":
    sys.exit(main())
