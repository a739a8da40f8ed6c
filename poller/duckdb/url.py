"""The URL of a DuckDB database (docs/reference/sources.md#duckdb). Pure.

`duckdb:///data/shop.duckdb?threads=2&memory_limit=1GB` names a file, and bounds what its queries take of a poller.
`duckdb:///?files=/data/lake` names no database but a folder whose Parquet, CSV and JSON files queries may read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

NO_URL = "is not a DuckDB URL such as duckdb:///data/shop.duckdb?threads=2 or duckdb:///?files=/data/lake"
"""Words for a URL without a valid form."""

DEFAULT_THREADS = 1
"""Threads of one statement without `threads`."""

DEFAULT_MEMORY = "1GB"
"""Memory of all statements together without `memory_limit`."""

MAX_THREADS = 256
"""Maximum of `threads`."""

RESERVED = {"memory", "temp", "system", "main"}
"""Names that an attached database cannot have, or that mean another one."""

_MEMORY = re.compile(r"[1-9][0-9]*(?:\.[0-9]+)?\s?(?:KB|MB|GB|TB|KiB|MiB|GiB|TiB)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Location:
    """A database, and what its queries may take and read."""

    path: str
    """Path of the file; empty for none."""
    threads: int
    memory_limit: str
    temp_directory: str
    """Folder for what does not fit into memory; empty for none."""
    files: tuple[str, ...]
    """Folders whose files queries may read, besides the database."""

    @property
    def name(self) -> str:
        """The name of the database in SQL: that of the file without its ending."""
        stem = self.path.rpartition("/")[2].split(".")[0]
        return f"{stem}_database" if stem.lower() in RESERVED or not stem else stem


def read_url(url: str) -> Location:
    """Return what the URL names. Raises ValueError, whose message repeats no part of it."""
    try:
        parts = urlsplit(url)
        fields = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise ValueError(NO_URL) from None
    if parts.scheme != "duckdb" or parts.netloc or parts.fragment or not parts.path.startswith("/"):
        raise ValueError(NO_URL)
    given: dict[str, str] = {}
    files: list[str] = []
    for name, value in fields:
        if name == "files":
            files.append(_absolute(name, value))
        elif name not in ("threads", "memory_limit", "temp_directory"):
            raise ValueError(f"{NO_URL}: its options are threads, memory_limit, temp_directory and files")
        elif name in given:
            raise ValueError(f"{NO_URL}: it has the option {name} twice")
        else:
            given[name] = value
    path = unquote(parts.path)
    if "\0" in path or any("\0" in value for _, value in fields):
        raise ValueError(f"{NO_URL}: it has a NUL character")
    if path == "/" and not files:
        raise ValueError(f"{NO_URL}: it names neither a file nor a folder of files")
    threads = given.get("threads", str(DEFAULT_THREADS))
    if not (threads.isascii() and threads.isdecimal() and 1 <= int(threads) <= MAX_THREADS):
        raise ValueError(f"{NO_URL}: threads must be from 1 to {MAX_THREADS}")
    memory = given.get("memory_limit", DEFAULT_MEMORY)
    if not _MEMORY.fullmatch(memory):
        raise ValueError(f"{NO_URL}: memory_limit must be a size such as 512MB or 2GB")
    folder = given.get("temp_directory", "")
    return Location(
        "" if path == "/" else path,
        int(threads),
        memory,
        _absolute("temp_directory", folder) if folder else "",
        tuple(files),
    )


def _absolute(name: str, folder: str) -> str:
    if not folder.startswith("/"):
        raise ValueError(f"{NO_URL}: {name} must be the absolute path of a folder")
    return folder.rstrip("/") or "/"
