"""A MariaDB server run as a child process on this machine, for development and tests only.

No wheel contains MariaDB or MySQL, so its programs are those of the system (Debian: apt install mariadb-server-core,
which starts no service). The server trusts everyone who connects from this machine, keeps its data directory between
runs, listens on 127.0.0.1 (or ::1) only, accepts connections when `start` returns, and ends with this process
(services/local/child.py). Tests break it with `kill`, `freeze`, `thaw` and `restart` (on the same port).
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from pollcast.services.errors import PollcastError
from pollcast.services.local.child import Child, ProcessFailed
from pollcast.services.local.database_server import DatabaseServer
from pollcast.services.local.ports import at_loopback, listens, loopback

CREATE_SECONDS: Final = 120.0
"""Time that the server has to create a data directory."""

SYSTEM_TABLES: Final = ("mysql_system_tables.sql", "mysql_performance_tables.sql", "mysql_system_tables_data.sql")
"""Scripts of MariaDB that create the tables that it needs itself."""

SETTINGS: Final = {
    "character-set-server": "utf8mb4",
    "default-time-zone": "+00:00",
    "innodb-buffer-pool-size": "64M",
    "innodb-log-file-size": "16M",
    "innodb-use-native-aio": "0",
    "performance-schema": "off",
}


class MariadbMissing(PollcastError):
    """MariaDB is not installed on this machine (Debian: apt install mariadb-server-core)."""

    exit = 2


class MariadbServer(DatabaseServer):
    """A MariaDB server; a context manager that stops it on leaving. Its superuser is `root`, without a password."""

    @classmethod
    def start(
        cls,
        data_dir: Path,
        *,
        port: int | None = None,
        fsync: bool = True,
        log: Path | None = None,
        options: Mapping[str, str] = MappingProxyType({}),
    ) -> MariadbServer:
        """Start the server on `data_dir`, which is created on its first use; return it when it accepts connections.

        `options` are further ones of the server. Without `port` it listens where it did in its last run on `data_dir`,
        or else on any free port, and on another when that one is taken; without `log` it logs to a file beside
        `data_dir`. Raises MariadbMissing where it is not installed, and ProcessFailed when it does not start.
        """
        program = installed()
        if program is None:
            raise MariadbMissing
        data_dir = data_dir.resolve()
        log = log or data_dir.with_name(f"{data_dir.name}.log")
        if not (data_dir / "mysql" / "global_priv.frm").exists():
            _create(program, data_dir, log)
        return cls._started(
            lambda chosen: Child("mariadb", _command(program, data_dir, fsync, options, port=chosen), log),
            port,
            data_dir,
        )

    def url_of(self, database: str = "") -> str:
        """Return the URL of a database of this server, or of none."""
        return f"mysql://root@{at_loopback(self.port)}/{database}"

    def accepting(self) -> bool:
        """Return whether the server greets who connects now."""
        if not self.process.running or not listens(self.pid, self.port):
            return False  # whoever accepts is another process
        try:
            with socket.create_connection((loopback(), self.port), 1) as connection:
                return bool(connection.recv(1))
        except OSError:
            return False


def installed() -> Path | None:
    """Return the path of the server's program; None where it is not installed."""
    found = shutil.which("mariadbd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    return Path(found).resolve() if found else None


def _command(
    program: Path, data_dir: Path, fsync: bool, options: Mapping[str, str] = MappingProxyType({}), *, port: int | None
) -> list[str]:
    settings = {
        **SETTINGS,
        "bind-address": loopback(),
        **options,
        "basedir": str(program.parent.parent),
        "datadir": str(data_dir),
        "lc-messages-dir": str(_scripts(program)),
        "innodb-flush-log-at-trx-commit": "1" if fsync else "0",
        "skip-log-bin": None,
        "skip-name-resolve": None,
        "socket": "mariadb.sock",  # in `datadir`, which the server enters: a whole path has at most 107 bytes
        "pid-file": str(data_dir / "mariadb.pid"),
        "user": "root" if os.geteuid() == 0 else None,
        "port": str(port) if port else "0",
    }
    given = {name: value for name, value in settings.items() if value is not None or name.startswith("skip-")}
    flags = [f"--{name}={value}" if value else f"--{name}" for name, value in given.items()]
    return [str(program), "--no-defaults", *flags]


def _create(program: Path, data_dir: Path, log: Path) -> None:
    """Create the data directory. Raises ProcessFailed when that fails, and leaves none then."""
    partial = data_dir.with_name(f"{data_dir.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    scripts = [(_scripts(program) / name).read_text() for name in SYSTEM_TABLES]
    text = "\n".join(["create database mysql;", "use mysql;", *scripts])
    command = [*_command(program, partial, False, port=None), "--bootstrap"]
    try:
        done = subprocess.run(command, input=text, text=True, capture_output=True, timeout=CREATE_SECONDS, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ProcessFailed(f"MariaDB can't create {data_dir}: {error}") from None
    log.write_text(done.stderr)
    if done.returncode != 0:
        raise ProcessFailed(f"MariaDB can't create {data_dir}\n{done.stderr[-2000:]}")
    shutil.rmtree(data_dir, ignore_errors=True)
    partial.rename(data_dir)


def _scripts(program: Path) -> Path:
    """Return the folder of the server's scripts and messages."""
    share = program.parent.parent / "share"
    return next((share / name for name in ("mariadb", "mysql") if (share / name / SYSTEM_TABLES[0]).exists()), share)
