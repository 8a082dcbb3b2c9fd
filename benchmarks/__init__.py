"""What Lateen costs, always against a named baseline in the same run: `make bench`, or `python -m benchmarks --help`.

Not tests: nothing here passes or fails by its speed. May import anything; nothing imports it but its own unit tests.
"""
