"""Child processes that end when this process ends, in whatever way it ends.

`Child(…).start()` runs a program in a session of its own, so that a Ctrl-C at the terminal reaches this process alone,
which decides the order in which children stop. Its output goes to a log file. When this process ends without stopping
it, even by SIGKILL, the kernel sends it `death_signal` (on Linux: services/process/leash.py). Methods block, and may be
called from any thread. Children are started with `subprocess`, which does not run the fork handlers of gRPC.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pollcast.services.errors import PollcastError
from pollcast.services.process.leash import leash_command

STOP_SECONDS = 10.0
"""Time that a child has to end by itself before it is killed."""

POLL_SECONDS = 0.02
"""Interval between two checks of a child's state."""

TAIL_LINES = 15
"""Lines of a log that an error message quotes."""

PORT_TAKEN = b"address already in use"
"""Text that a server logs, in any case, when it cannot listen because another process does."""

# The kernel binds a child to the thread that starts it, so this thread lives until the interpreter ends.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="child-starter")


class ProcessFailed(PollcastError):
    """A process did not start, or ended unexpectedly."""


@dataclass(frozen=True, slots=True)
class User:
    """The user that a child runs as when this process runs as root."""

    uid: int
    gid: int


class Child:
    """A program and, while it runs, its process. `start` may be called again after the process has ended."""

    def __init__(
        self,
        name: str,
        program: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        user: User | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        death_signal: signal.Signals = signal.SIGKILL,
    ) -> None:
        """Describe the child. `env` replaces this process's environment; `stop_signal` asks the child to end."""
        self.name = name
        self.log = log
        self.program = list(program)
        self._env = env
        self._user = user
        self._stop_signal = stop_signal
        self._death_signal = death_signal
        self._process: subprocess.Popen[bytes] | None = None
        self._log_begin = 0  # size of the log before the last start, in bytes

    @property
    def pid(self) -> int:
        """The id of the running process, or of the last one. Raises ProcessFailed before the first start."""
        if self._process is None:
            raise ProcessFailed(f"{self.name} was never started")
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status, or minus the number of the signal that ended the process; None before it has ended."""
        return None if self._process is None else self._process.poll()

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process and return as soon as it exists. Raises ProcessFailed when it cannot be created."""
        assert not self.running, f"{self.name} is running"
        user = "-" if self._user is None else f"{self._user.uid}:{self._user.gid}"
        leash = leash_command(self._death_signal, user)

        def popen() -> subprocess.Popen[bytes]:
            with self.log.open("ab") as log:
                return subprocess.Popen(  # noqa: S603 - programs and arguments are ours
                    [*leash, *self.program],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self._env,
                    start_new_session=True,
                )

        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            self._log_begin = self.log.stat().st_size if self.log.exists() else 0
            self._process = _starter.submit(popen).result()
        except OSError as error:
            raise ProcessFailed(f"{self.name} can't be started: {error}") from None

    def wait(self, timeout: float | None = None) -> int | None:
        """Return the status once the process has ended; None when it still runs after `timeout` seconds."""
        assert self._process is not None
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Wait until `ready()` is true. Raises ProcessFailed, with the end of the log, when the process ends or the
        time is up before."""
        deadline = time.monotonic() + seconds
        while not ready():
            if self.wait(POLL_SECONDS) is not None:
                raise ProcessFailed(f"{self.name} {self.how_it_ended()}\n{self.tail()}")
            if time.monotonic() > deadline:
                raise ProcessFailed(f"{self.name} is not ready after {seconds:g} s\n{self.tail()}")

    def send(self, number: signal.Signals) -> None:
        """Send a signal; do nothing when the process has ended."""
        if self._process is not None:
            self._process.send_signal(number)

    def freeze(self) -> None:
        """Stop the process with SIGSTOP: its connections stay open, and nothing answers. Return when it has stopped."""
        if self.running:
            self.send(signal.SIGSTOP)
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        """Let a frozen process go on."""
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        """Kill the process as a crash would, without clean-up. Return when it is gone."""
        if self.running:
            self.send(signal.SIGKILL)
            self.wait()

    def ask_to_stop(self) -> None:
        """Send the stop signal, and wake a frozen process so that it receives it."""
        self.send(self._stop_signal)
        self.thaw()

    def stop(self, seconds: float = STOP_SECONDS) -> bool:
        """Ask the process to end, and kill it after `seconds`. Return whether it ended by itself."""
        if not self.running:
            return True
        self.ask_to_stop()
        if self.wait(seconds) is not None:
            return True
        self.kill()
        return False

    def lost_its_port(self) -> bool:
        """Return whether the process ended because another one listens on its address: that one took the port after
        it was found free."""
        if self.running or not self.log.exists():
            return False
        with self.log.open("rb") as log:
            log.seek(self._log_begin)
            return PORT_TAKEN in log.read().lower()

    def tail(self, lines: int = TAIL_LINES) -> str:
        """Return the last lines of the log."""
        try:
            text = self.log.read_text(errors="replace")
        except OSError as error:
            return f"(no log: {error})"
        return "\n".join(text.splitlines()[-lines:])

    def how_it_ended(self) -> str:
        """Describe the state: `ended with exit status 2`, `was ended by SIGKILL` or `runs`."""
        status = self.status
        if status is None:
            return "runs"
        return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
