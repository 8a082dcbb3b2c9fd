"""`python -m ratelimit`."""

import os

# Read when gRPC is imported. Its own lines are no JSON, and what they say of a failed call its caller logs, too.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from ratelimit.main import main

main()
