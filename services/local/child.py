"""A child process on a leash: it ends when we do, however we end.

`Child(…).start()` runs a program in a session of its own (a Ctrl-C at the terminal reaches us alone, and we decide in
which order things stop), with its output in a log file. When our process ends without stopping it, even by SIGKILL, the
kernel sends it `death_signal` (Linux; see pollcast.services.local.leash). Blocking; usable from any thread.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pollcast.services.errors import PollcastError

LEASH = Path(__file__).with_name("leash.py")
STOP_SECONDS = 10.0
POLL_SECONDS = 0.02
TAIL_LINES = 15

# The leash is bound to the thread that starts the child: one that lives until the interpreter ends.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="child-starter")


class ProcessFailed(PollcastError):
    """A process did not start, or ended when it should not have."""


@dataclass(frozen=True, slots=True)
class User:
    """Who a child runs as when we are root."""

    uid: int
    gid: int


class Child:
    """One program and, while it runs, its process. `start` may be called again after the process has ended."""

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
        """`env` replaces the environment (None: ours). `stop_signal` asks it to end."""
        self.name = name
        self.log = log
        self._program = list(program)
        self._env = env
        self._user = user
        self._stop_signal = stop_signal
        self._death_signal = death_signal
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the running process, or of the last one. ProcessFailed before the first."""
        if self._process is None:
            raise ProcessFailed(f"{self.name} was never started")
        return self._process.pid

    @property
    def status(self) -> int | None:
        """None while it runs; else the exit status, or minus the number of the signal that ended it."""
        return None if self._process is None else self._process.poll()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Returns as soon as the process exists. ProcessFailed when it can't be made."""
        assert not self.running, f"{self.name} runs already"
        user = "-" if self._user is None else f"{self._user.uid}:{self._user.gid}"
        leash = [sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), str(int(self._death_signal)), user]

        def popen() -> subprocess.Popen[bytes]:
            with self.log.open("ab") as log:
                return subprocess.Popen(  # noqa: S603 - programs and arguments are ours
                    [*leash, *self._program],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self._env,
                    start_new_session=True,
                )

        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            self._process = _starter.submit(popen).result()
        except OSError as error:
            raise ProcessFailed(f"{self.name} can't be started: {error}") from None

    def wait(self, timeout: float | None = None) -> int | None:
        """The status once it has ended; None when it still runs after `timeout` seconds."""
        assert self._process is not None
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Waits until `ready()`. ProcessFailed, with the end of the log, when it ends before or the time is up."""
        deadline = time.monotonic() + seconds
        while not ready():
            if self.wait(POLL_SECONDS) is not None:
                raise ProcessFailed(f"{self.name} {self.how_it_ended()}\n{self.tail()}")
            if time.monotonic() > deadline:
                raise ProcessFailed(f"{self.name} is not ready after {seconds:g} s\n{self.tail()}")

    def send(self, number: signal.Signals) -> None:
        """Does nothing to a process that has ended."""
        if self._process is not None:
            self._process.send_signal(number)

    def freeze(self) -> None:
        """Stops it in its tracks: its connections stay open, and nothing answers. Returns when all of it stands."""
        if self.running:
            self.send(signal.SIGSTOP)
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        """As a crash would: no clean-up. Returns when it is gone."""
        if self.running:
            self.send(signal.SIGKILL)
            self.wait()

    def ask_to_stop(self) -> None:
        """Sends the stop signal, and wakes a frozen process so that it can hear it."""
        self.send(self._stop_signal)
        self.thaw()

    def stop(self, seconds: float = STOP_SECONDS) -> bool:
        """Asks it to end and kills it when it has not within `seconds`. Whether it ended by itself."""
        if not self.running:
            return True
        self.ask_to_stop()
        if self.wait(seconds) is not None:
            return True
        self.kill()
        return False

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines of its log."""
        try:
            text = self.log.read_text(errors="replace")
        except OSError as error:
            return f"(no log: {error})"
        return "\n".join(text.splitlines()[-lines:])

    def how_it_ended(self) -> str:
        """`ended with exit status 2`, `was ended by SIGKILL`, `runs`."""
        status = self.status
        if status is None:
            return "runs"
        return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
