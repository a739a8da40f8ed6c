"""The listener: notifications of PostgreSQL make owned topics due at once (docs/reference/catalogue.md#listen).

Its life, beside that of the poller:

- *resting*, while this poller owns no topic of a query with `listen`: there is no connection.
- *connecting*, as soon as it owns one: a connection of its own is opened, because a pooled one cannot listen. Attempts
  that fail are repeated with a growing delay (notifications.py).
- *listening*: the connection listens to the channels of the queries of which topics are owned; channels are added and
  removed as topics come and go. As soon as a channel is listened to, all owned topics of its queries are made due
  once, for what was notified before. When the server has sent nothing for CHECK_SECONDS, it is asked whether it is
  there. A connection that breaks, or whose server does not answer, is closed, and the listener is connecting again.
- After REST_SECONDS without any channel, the connection is closed, and the listener rests.

Notifications are only hints (notification_hints.py). While none arrive (no connection, a standby, a pooler that loses
them) topics are polled at their interval as ever.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import NoReturn

import psycopg

from pollcast.poller import metrics
from pollcast.poller.notification_hints import HintReceiver, NotificationHints
from pollcast.poller.notifications import LONGEST_RETRY_SECONDS, Channels, listen_statement, retry_delay
from pollcast.poller.postgresql.listening_connection import POOLED, ListeningConnection, Refused
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.catalogue.query import DEFAULT_SOURCE, Query
from pollcast.services.process import logs
from pollcast.services.process.cancellation import heeding_cancellation
from pollcast.services.process.database_url import server_words

log = logs.get_logger("listener")

CHECK_SECONDS = 10.0
"""Time of silence after which the server is asked whether it is there, in seconds."""

REST_SECONDS = 2.0
"""Time for which the connection is kept although there is nothing to listen to, in seconds."""

RECOVERY = "25006"
"""SQLSTATE with which a standby refuses to listen."""


class Listener:
    """The listener of one poller. `run` listens until cancelled; call `owned_changed` from the event loop."""

    def __init__(
        self,
        catalog: Catalog,
        url: Callable[[], str],
        application_name: str,
        receiver: HintReceiver,
        rng: random.Random | None = None,
        source: str = DEFAULT_SOURCE,
    ) -> None:
        """Listen for the queries of this source, at `url`."""
        self._source = source
        self._url = url
        self._application_name = application_name
        self._owns_any = receiver.owns_any
        self._rng = rng or random.Random()
        self._channels = Channels(self._own(catalog))
        self.hints = NotificationHints(self._channels, receiver)
        self._wanted: frozenset[bytes] = frozenset()
        self._changed = asyncio.Event()  # the wanted channels may have changed
        self._connection: ListeningConnection | None = None
        self._listening_since: float | None = None
        self._listening: frozenset[bytes] = frozenset()
        self._trouble: str | None = None  # why the last attempt failed; None after one that succeeded
        self._show(frozenset())

    def take(self, catalog: Catalog) -> None:
        """Take another catalogue, after the receiver of hints has."""
        before = self._channels.names
        self._channels.replace(self._own(catalog))
        listening = {query.name for query in catalog.queries.values() if query.listen is not None}
        for name in before - self._channels.names - listening:  # one that has moved is another listener's
            metrics.LISTENING.remove_by_labels({"query": name})
        self._want()
        self._show(self._listening)

    def _own(self, catalog: Catalog) -> list[Query]:
        return [query for query in catalog.queries.values() if query.source == self._source]

    def owned_changed(self, query: Query) -> None:
        """Record that the first topic of the query was gained, or its last one lost."""
        if query.listen is not None:
            self._want()

    def _want(self) -> None:
        self._wanted = self._channels.wanted(self._owns_any)
        self._changed.set()
        if self._connection is not None:
            self._connection.wake()

    async def run(self) -> None:
        """Listen until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.hints.run(), name="hints of notifications")
            await self._connect_forever()

    # --- the connection

    async def _connect_forever(self) -> NoReturn:
        failures = 0
        while True:
            while not self._wanted:
                self._changed.clear()
                await self._changed.wait()
            error = await self._listen()
            if error is None:
                failures = 0
                continue
            failures = 1 if self._lasted() else failures + 1
            reason = server_words(error, self._url())
            if reason != self._trouble:
                log.warning("can't listen for notifications", reason=reason, **advice(error))
            self._trouble = reason
            delay = retry_delay(failures, self._rng.random(), refused=isinstance(error, Refused))
            await asyncio.sleep(delay)

    def _lasted(self) -> bool:
        """Return whether the last connection has listened for so long that the next one can be opened quickly."""
        since = self._listening_since
        return since is not None and asyncio.get_running_loop().time() - since >= LONGEST_RETRY_SECONDS

    async def _listen(self) -> Exception | None:
        """Listen on one connection: return None when there is nothing to listen to any more, or why it has ended."""
        errors = (psycopg.Error, OSError, ValueError, Refused)
        self._listening_since = None
        try:
            with heeding_cancellation(*errors):
                opening = ListeningConnection.open(self._url(), self._application_name, self.hints.add)
                async with opening as self._connection:
                    await self._follow(self._connection)
        except errors as error:
            return error
        finally:
            self._connection = None
            self._show(frozenset())
        return None

    async def _follow(self, connection: ListeningConnection) -> None:
        """Receive notifications of the wanted channels, until none has been wanted for REST_SECONDS."""
        clock = asyncio.get_running_loop().time
        listening: frozenset[bytes] = frozenset()
        resting_since = clock()
        while True:
            wanted = self._wanted
            if wanted != listening:
                await self._change_channels(connection, wanted - listening, listening - wanted)
                listening, resting_since = wanted, clock()
                self._show(listening)
            elif listening:
                quiet_until = connection.heard_at + CHECK_SECONDS
                if clock() >= quiet_until:
                    await connection.check()
                else:
                    await connection.receive(quiet_until - clock())
            elif clock() >= resting_since + REST_SECONDS:
                return
            else:
                await connection.receive(resting_since + REST_SECONDS - clock())

    async def _change_channels(
        self, connection: ListeningConnection, add: frozenset[bytes], remove: frozenset[bytes]
    ) -> None:
        """Begin to listen to some channels, whose topics are made due once, and end listening to others."""
        await connection.execute(listen_statement(add, remove))
        if not add:
            return
        await connection.check()
        if self._listening_since is None:
            self._listening_since = asyncio.get_running_loop().time()
        if self._trouble is not None:
            log.info("listening for notifications again")
            self._trouble = None
        for channel in add:
            self.hints.add_missed(channel)

    def _show(self, listening: frozenset[bytes]) -> None:
        """Show in the metrics which queries are listening."""
        self._listening = listening
        for channel in self._channels:
            for query in self._channels.queries(channel):
                metrics.LISTENING.labels(query.name).set(channel in listening)


def advice(error: Exception) -> dict[str, str]:
    """Return the field `advice` of the log line about a server that refuses to listen; no field for other errors."""
    if not isinstance(error, Refused):
        return {}
    if error.sqlstate == RECOVERY:
        return {"advice": "a standby cannot listen: set POLLCAST_LISTEN_URL to the primary"}
    if error.sqlstate == POOLED:
        return {"advice": "set POLLCAST_LISTEN_URL to the database itself, or to a pool that lends whole sessions"}
    return {"advice": "set POLLCAST_LISTEN_URL to a PostgreSQL that can LISTEN, or remove listen from the catalogue"}
