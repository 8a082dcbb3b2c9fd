"""Ending with whoever started us: `make up` is gone when make is, however it went."""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_NOBODY = 1


def end_with_parent() -> None:
    """Have the kernel send us SIGTERM when our parent process ends (prctl(2), PR_SET_PDEATHSIG); OSError when it cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() == _NOBODY:  # it ended before we asked
        os.kill(os.getpid(), signal.SIGTERM)
