"""The driver of DuckDB: it opens one instance per database within this process, which all sessions share.

While an instance is open no other process can write its file. A new version of the data is written to another file,
which then takes the path's place (`mv`): sessions notice that before their next statement, and the next ones have an
instance of the new file.
"""

from __future__ import annotations

import asyncio
from functools import partial

import duckdb

from pollcast.poller.duckdb.instance import Instance
from pollcast.poller.duckdb.session import DuckdbSession
from pollcast.poller.duckdb.url import read_url
from pollcast.poller.sources.outcome import Unreachable


class DuckdbDriver:
    """The Driver (poller/sources/source.py) of DuckDB."""

    def __init__(self) -> None:
        self._instances: dict[str, Instance] = {}  # the newest of each URL
        self._opening = asyncio.Lock()

    def check_url(self, url: str) -> None:
        """Raise ValueError when the URL has no valid form."""
        read_url(url)

    async def connect(self, url: str, node: str) -> DuckdbSession:
        """Open a session. Raises Unreachable when the file can't be read, or another process writes it."""
        location = read_url(url)
        async with self._opening:
            try:
                instance = self._instances.get(url)
                if instance is None or not instance.present():
                    instance = await asyncio.to_thread(Instance.open, location)
                    self._instances[url] = instance
                cursor = instance.cursor()
            except duckdb.Error as error:
                raise Unreachable(_words(error)) from error
            instance.sessions += 1
        closed = partial(self._closed, url, instance)
        return DuckdbSession(instance, cursor, asyncio.get_running_loop().time(), closed)

    def _closed(self, url: str, instance: Instance) -> None:
        """Close the instance after its last session."""
        instance.sessions -= 1
        if not instance.sessions:
            if self._instances.get(url) is instance:
                del self._instances[url]
            instance.close()


def _words(error: duckdb.Error) -> str:
    """Return the first line of DuckDB's message, without its advice."""
    return str(error).splitlines()[0].partition(" See also ")[0].partition(" However, ")[0].rstrip(". ")
