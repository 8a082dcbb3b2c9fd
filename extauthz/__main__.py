"""`python -m extauthz`."""

from extauthz.main import main

main()
