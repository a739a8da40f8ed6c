"""A launcher that ties a program to the process that starts it: `leash.py PARENT SIGNAL UID:GID PROGRAM ARGS…`.

It becomes the user `UID:GID` (`-` for no change), asks the kernel to send SIGNAL when PARENT ends in whatever way
(SIGKILL too), and then becomes PROGRAM, under the same process id. Run by local.child, with nothing but the
standard library. The kernel's request is per thread: it is the *thread* that started us whose end counts. On systems
other than Linux there is no such request, and a parent that is killed leaves its children behind.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1


def parent_death_request(number: int) -> Callable[[], None]:
    if sys.platform != "linux":
        return lambda: None
    import ctypes

    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def request() -> None:
        if prctl(PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")

    return request


def main(parent: str, number: str, user: str, *program: str) -> None:
    request = parent_death_request(int(number))  # made ready while we may still read Python's own files
    if user != "-":  # before the request below, which a change of user would cancel
        uid, _, gid = user.partition(":")
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    request()
    if os.getppid() != int(parent):
        raise SystemExit(1)  # the parent ended before the request was made
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python, and the program would inherit it
        signal.signal(ignored, signal.SIG_DFL)
    os.execv(program[0], program)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(*sys.argv[1:])
