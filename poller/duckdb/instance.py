"""An instance of DuckDB within this process: one database file that is read, and the bounds that its queries have.

The file is attached to an empty database in memory. So another instance can have the file's successor while this one is
still in use: DuckDB shares instances of one path within a process. After that the instance is sealed: no file but those
of the URL can be read, no extension can be loaded, and no setting can be changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from pollcast.poller.duckdb.dialect import identifier
from pollcast.poller.duckdb.url import Location
from pollcast.poller.sources.thread_session import Abandoned


class Signature(NamedTuple):
    """Signature of a file, which its successor of the same path does not have."""

    device: int
    inode: int
    changed: int
    size: int


def signature_of(path: str) -> Signature | None:
    """Return the signature of the present file; None when there is none, or the path is empty."""
    if not path:
        return None
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return Signature(found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)


class Instance:
    """An open instance, which any thread may use."""

    def __init__(self, location: Location, connection: duckdb.DuckDBPyConnection, signature: Signature | None) -> None:
        self.signature = signature
        """The signature of its file."""
        self.broken = False
        """Whether an error has made it useless."""
        self.sessions = 0
        """Number of sessions that use it."""
        self.abandoned = Abandoned()
        self.described: dict[str, list[tuple[str, str]]] = {}
        """The names and types of columns, by the query's text; empty when they can change, because files are read."""
        self.keeps_descriptions = not location.files
        """Whether columns of a query stay as they are."""
        self._connection = connection
        self._path = location.path
        self._name = location.name if location.path else ""

    @classmethod
    def open(cls, location: Location) -> Instance:
        """Open an instance. Raises duckdb.Error when the file can't be read, or another process writes it."""
        signature = signature_of(location.path)
        connection = duckdb.connect(
            ":memory:",
            config={
                "threads": location.threads,
                "memory_limit": location.memory_limit,
                "temp_directory": location.temp_directory,
                "allow_community_extensions": False,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "python_enable_replacements": False,
                "custom_user_agent": "pollcast",
            },
        )
        try:
            if location.path:
                connection.execute(f"attach {_string(location.path)} as {identifier(location.name)} (read_only)")
            connection.execute("set timezone = 'UTC'")
            folders = ", ".join(map(_string, location.files))
            connection.execute(f"set allowed_directories = [{folders}]")
            connection.execute("set enable_external_access = false")
            connection.execute("set lock_configuration = true")
        except BaseException:
            connection.close()
            raise
        return cls(location, connection, signature)

    def present(self) -> bool:
        """Return whether it works, and its file is still that of the path."""
        return not self.broken and self.signature == signature_of(self._path)

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return another connection to the database."""
        cursor = self._connection.cursor()
        if self._name:
            cursor.execute(f"use {identifier(self._name)}")
        return cursor

    def close(self) -> None:
        """Close the instance, and let other processes write the file."""
        self._connection.close()


def sql_type(name: str) -> Any:
    """Return the type of this name, with its parts."""
    return duckdb.sqltype(name)


def _string(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
