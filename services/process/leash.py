"""A launcher that ties a program to the process that starts it: `leash.py PARENT SIGNAL UID:GID PROGRAM ARGS…`.

The launcher becomes the user `UID:GID` (`-`: no change), asks the kernel to send it SIGNAL when PARENT ends in whatever
way (by SIGKILL too), and then becomes PROGRAM under the same process id. It runs isolated, so it uses nothing but the
standard library. The kernel watches a thread: the signal comes when the *thread* that started
the launcher ends. Other systems than Linux have no such request, and a killed parent leaves its children behind there.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1


def parent_death_request(number: int) -> Callable[[], None]:
    """Return a function that asks the kernel for signal `number` when the parent ends; it reads no file any more."""
    if sys.platform != "linux":
        return lambda: None
    import ctypes

    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def request() -> None:
        if prctl(PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")

    return request


def leash_command(number: int, user: str = "-") -> list[str]:
    """Return the beginning of a command whose program gets signal `number` when this process ends."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(int(number)), user]


def main(parent: str, number: str, user: str, *program: str) -> None:
    """Become `user`, request the signal `number`, and become `program`. Exit with 1 when the parent ended before."""
    request = parent_death_request(int(number))  # while Python's own files may still be read
    if user != "-":  # first: a change of user would cancel the request
        uid, _, gid = user.partition(":")
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    request()
    if os.getppid() != int(parent):
        raise SystemExit(1)  # the parent ended before the request was made
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and the program would inherit that
        signal.signal(ignored, signal.SIG_DFL)
    os.execv(program[0], program)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(*sys.argv[1:])
