"""A database server on this machine, run as a child process: what those of PostgreSQL and MariaDB have in common.

A server keeps its data directory and its port between runs, accepts connections when it has been started, and ends with
this process (services/local/child.py). Tests break it with `kill`, `freeze`, `thaw` and `restart`.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from pollcast.services.local.child import Child, ProcessFailed
from pollcast.services.local.embedded import START_SECONDS
from pollcast.services.local.ports import PORT_ATTEMPTS, free_port


class DatabaseServer(ABC):
    """A server that runs as `process` and listens on `port`; a context manager that stops it on leaving."""

    def __init__(self, process: Child, port: int) -> None:
        self.process = process
        self.port = port

    @classmethod
    def _started(cls, process_on: Callable[[int], Child], port: int | None, data_dir: Path) -> Self:
        """Start a server whose process `process_on` makes for a port; return it when it accepts connections.

        Without `port` it listens where it did in its last run on `data_dir`, or else on any free port, and on another
        when that one is taken in the meantime. Raises ProcessFailed when it does not start.
        """
        attempts = PORT_ATTEMPTS if port is None else 1
        file = data_dir.with_name(f"{data_dir.name}.port")
        last = _port_in(file)
        while True:
            chosen = port if port is not None else free_port(wanted=last)
            server = cls(process_on(chosen), chosen)
            attempts -= 1
            server.process.start()
            try:
                server.process.until(server.accepting, START_SECONDS)
                file.write_text(f"{chosen}\n")
            except BaseException as error:
                server.kill()
                if not (isinstance(error, ProcessFailed) and server.process.lost_its_port() and attempts):
                    raise
                last = None
            else:
                return server

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self.process.pid

    @abstractmethod
    def accepting(self) -> bool:
        """Return whether the server accepts connections now."""

    def restart(self) -> None:
        """Kill the server if it runs, and start it on its data and port. Return when it accepts connections."""
        self.kill()
        self.process.start()
        self.process.until(self.accepting, START_SECONDS)

    def freeze(self) -> None:
        """Freeze the server: its connections stay open, and nothing answers."""
        self.process.freeze()

    def thaw(self) -> None:
        """Let the frozen server go on."""
        self.process.thaw()

    def kill(self) -> None:
        """Kill the server as a crash would."""
        self.process.kill()

    def stop(self) -> None:
        """Stop the server; do nothing when it does not run."""
        self.process.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def _port_in(file: Path) -> int | None:
    """Return the port that the file holds; None when there is no such file."""
    with contextlib.suppress(OSError, ValueError):
        return int(file.read_text())
    return None
