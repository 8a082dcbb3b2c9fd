"""`python -m ratelimit`."""

from ratelimit.main import main

main()
