"""The driver of DuckDB: it opens one instance per database within this process, which all sessions share.

While an instance is open no other process can write its file. A new version of the data is written to another file,
which then takes the path's place (`mv`): sessions notice that before their next statement, and the next ones have an
instance of the new file.
"""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import duckdb

from pollcast.poller.duckdb.instance import Instance
from pollcast.poller.duckdb.session import DuckdbSession
from pollcast.poller.duckdb.url import Location, read_url
from pollcast.poller.sources.outcome import Unreachable


class DuckdbDriver:
    """The Driver (poller/sources/source.py) of DuckDB."""

    def __init__(self) -> None:
        self._opening = threading.Lock()  # held while an instance is opened, which may take a while
        self._counting = threading.Lock()
        self._instances: dict[str, Instance] = {}  # the newest of each URL

    def check_url(self, url: str) -> None:
        """Raise ValueError when the URL has no valid form."""
        read_url(url)

    async def connect(self, url: str, node: str) -> DuckdbSession:
        """Open a session. Raises Unreachable when the file can't be read, or another process writes it."""
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(None, self._acquire, url, read_url(url))
        try:
            instance, cursor = await asyncio.shield(work)
        except duckdb.Error as error:
            raise Unreachable(_words(error)) from error
        except asyncio.CancelledError:
            work.add_done_callback(partial(self._give_back, url))
            raise
        return DuckdbSession(instance, cursor, partial(self._release, url, instance))

    def _acquire(self, url: str, location: Location) -> tuple[Instance, duckdb.DuckDBPyConnection]:
        """Return the instance of the present file, opened if need be, and a connection to it."""
        with self._opening:
            with self._counting:  # so that its last session does not close it meanwhile
                instance = self._instances.get(url)
                if instance is not None and instance.present():
                    instance.sessions += 1
                else:
                    instance = None
            if instance is None:
                instance = Instance.open(location)
                with self._counting:
                    self._instances[url] = instance
                    instance.sessions += 1
            try:
                return instance, instance.cursor()
            except BaseException:
                self._release(url, instance)
                raise

    def _release(self, url: str, instance: Instance) -> None:
        """Close the instance after its last session."""
        with self._counting:
            instance.sessions -= 1
            if instance.sessions:
                return
            if self._instances.get(url) is instance:
                del self._instances[url]
        instance.close()

    def _give_back(self, url: str, work: asyncio.Future[tuple[Instance, duckdb.DuckDBPyConnection]]) -> None:
        """Release what a session has got for which nobody waits any more."""
        if not work.cancelled() and work.exception() is None:
            instance, cursor = work.result()
            cursor.close()
            self._release(url, instance)


def _words(error: duckdb.Error) -> str:
    """Return the first line of DuckDB's message, without its advice."""
    return str(error).splitlines()[0].partition(" See also ")[0].partition(" However, ")[0].rstrip(". ")
