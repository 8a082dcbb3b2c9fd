"""`python -m extauthz`."""

import os

# Read when gRPC is imported. Its own lines are no JSON, and what they say of a failed call its caller logs, too.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from extauthz.main import main

main()
