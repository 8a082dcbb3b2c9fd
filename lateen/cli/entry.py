"""Where the `lateen` script begins: Ctrl-C ends the command quietly from the first moment, also while its modules are imported."""

# `signal` without its enumerations, which take a while to import; it has no stubs.
import _signal  # type: ignore[import-not-found]
import os

INTERRUPTED = 130
"""As a shell says it: 128 and SIGINT."""


def main() -> None:
    """Run the command line. A SIGINT that is ignored (a shell's background job) stays so."""
    interactive = _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler
    if interactive:
        _signal.signal(_signal.SIGINT, _leave)
    from lateen.cli.main import main as run

    if interactive:
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    run()


def _leave(_number: int, _frame: object) -> None:
    """Nothing has been done yet that needs an end."""
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
