"""Exit codes of every `lateen` command."""

from enum import IntEnum


class Exit(IntEnum):
    """What a script may rely on; listed in `lateen --help`."""

    OK = 0
    FINDINGS = 1
    USAGE = 2
    INVALID = 3
    UNREACHABLE = 4
    TIMEOUT = 5
    BUG = 70


class CommandError(Exception):
    """Ends a command with a message on stderr and an exit code; the only exception the commands raise on purpose."""

    def __init__(self, code: Exit, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


EPILOG = (
    "Exit codes: 0 ok, 1 findings or denied, 2 usage, 3 invalid configuration, "
    "4 cannot reach the mesh, 5 timeout, 70 a bug of ours."
)
