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

Notifications are only hints. While none arrive (no connection, a standby, a pooler that loses them) topics are polled
at their interval as ever. Whoever reads them has little to do for each: another task turns what has arrived into hints,
in small steps, and takes at most a fifth of the time for it. Meanwhile what arrives is collected in bounded memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Mapping
from typing import NoReturn, Protocol

import psycopg

from pollcast.poller import metrics
from pollcast.poller.listening_connection import POOLED, ListeningConnection, Refused
from pollcast.poller.notifications import (
    Channels,
    Heard,
    Ignored,
    Notifications,
    listen_statement,
    meant_by,
    retry_delay,
)
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.catalogue.query import Query
from pollcast.services.catalogue.topics import Topic
from pollcast.services.catalogue.values import Value
from pollcast.services.process import logs
from pollcast.services.process.cancellation import heeding_cancellation
from pollcast.services.process.database_url import server_words
from pollcast.services.process.occasional import Occasional

log = logs.get_logger("listener")

CHECK_SECONDS = 10.0
"""Time of silence after which the server is asked whether it is there, in seconds."""

REST_SECONDS = 2.0
"""Time for which the connection is kept although there is nothing to listen to, in seconds."""

STEP_SECONDS = 0.002
"""Time after which turning notifications into hints lets the event loop do other work, in seconds."""

REST_SHARE = 4.0
"""Rest after turning notifications into hints, as a multiple of the time that it took."""

MAX_SEARCHES = 16
"""Maximum number of payloads without the value of a claim, for each of which the query's topics are searched, before
all topics of the query are meant instead."""

RECOVERY = ("25006", "0A000")
"""SQLSTATEs with which a standby refuses to listen."""


class HintReceiver(Protocol):
    """The receiver of hints. Its methods ignore topics that are not owned, and must not block."""

    def hint_topic(self, topic: str) -> int:
        """Make the topic due at once, and return the number of topics made due."""

    async def hint_query(self, name: str, fixed: Mapping[str, Value]) -> int:
        """Make all topics of the query with these values due at once, and return their number."""

    def owns_any(self, name: str) -> bool:
        """Return whether any topic of the query is owned."""


class Listener:
    """The listener of one poller. `run` listens until cancelled; call `owned_changed` from the event loop."""

    def __init__(
        self,
        catalog: Catalog,
        url: str,
        application_name: str,
        receiver: HintReceiver,
        rng: random.Random | None = None,
    ) -> None:
        self._url = url
        self._application_name = application_name
        self._receiver = receiver
        self._rng = rng or random.Random()
        self._channels = Channels(catalog.queries.values())
        self._notifications = Notifications()
        self._arrived = asyncio.Event()
        self._changed = asyncio.Event()  # the wanted channels may have changed
        self._connection: ListeningConnection | None = None
        self._trouble: str | None = None  # why the last attempt failed; None after one that succeeded
        self._ignored = {name: Occasional(log.warning, "ignored a notification") for name in catalog.queries}
        for query in catalog.queries.values():
            if query.listen is not None:
                metrics.LISTENING.labels(query.name).set(0)

    def owned_changed(self, query: Query) -> None:
        """Record that the first topic of the query was gained, or its last one lost."""
        if query.listen is not None:
            self._changed.set()
            if self._connection is not None:
                self._connection.wake()

    async def run(self) -> None:
        """Listen until cancelled."""
        if not self._channels:
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._hint_forever(), name="hints of notifications")
            await self._connect_forever()

    # --- the connection

    def _wanted(self) -> frozenset[bytes]:
        return self._channels.wanted(self._receiver.owns_any)

    async def _connect_forever(self) -> NoReturn:
        failures = 0
        while True:
            while not self._wanted():
                await self._wanted_changed(None)
            error = await self._listen()
            if error is None:
                failures = 0
                continue
            failures = 1 if self._trouble is None else failures + 1
            reason = server_words(error, self._url)
            if reason != self._trouble:
                log.warning("can't listen for notifications", reason=reason, **advice(error))
            self._trouble = reason
            delay = retry_delay(failures, self._rng.random(), refused=isinstance(error, Refused))
            await asyncio.sleep(delay)

    async def _wanted_changed(self, seconds: float | None) -> None:
        """Wait until the wanted channels may have changed, at most for this time."""
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def _listen(self) -> Exception | None:
        """Listen on one connection: return None when there is nothing to listen to any more, or why it has ended."""
        errors = (psycopg.Error, OSError, ValueError, Refused)
        try:
            with heeding_cancellation(*errors):
                opening = ListeningConnection.open(self._url, self._application_name, self._on_notification)
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
            wanted = self._wanted()
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
        if self._trouble is not None:
            log.info("listening for notifications again")
            self._trouble = None
        for channel in add:
            self._notifications.add_missed(channel)
        self._arrived.set()

    def _on_notification(self, channel: bytes, payload: bytes) -> None:
        if self._channels.queries(channel):
            self._notifications.add(channel, payload)
            self._arrived.set()

    def _show(self, listening: frozenset[bytes]) -> None:
        """Show in the metrics which queries are listening."""
        for channel in self._channels:
            for query in self._channels.queries(channel):
                metrics.LISTENING.labels(query.name).set(channel in listening)

    # --- hints

    async def _hint_forever(self) -> NoReturn:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            steps = Steps()
            for channel, heard in self._notifications.take().items():
                for query in self._channels.queries(channel):
                    metrics.NOTIFICATIONS.labels(query.name).inc(heard.times)
                    if self._receiver.owns_any(query.name):
                        await self._hint(query, heard, steps)
            await asyncio.sleep(steps.took() * REST_SHARE)

    async def _hint(self, query: Query, heard: Heard, steps: Steps) -> None:
        """Give the hints that notifications of the query's channel mean for the query."""
        whole, searches = heard.whole, 0
        for payload, times in heard.payloads.items():
            meant = meant_by(query, payload)
            if isinstance(meant, Topic):
                self._receiver.hint_topic(meant.canonical)
            elif isinstance(meant, Ignored):
                metrics.IGNORED.labels(query.name).inc(times)
                self._ignored[query.name](query=query.name, channel=query.listen, reason=meant.reason)
            elif searches < MAX_SEARCHES:
                searches += 1
                await steps.outside(self._receiver.hint_query(query.name, meant))
            else:
                whole = True
                break
            await steps.give_way()
        if whole:
            await steps.outside(self._receiver.hint_query(query.name, {}))


class Steps:
    """The time that a task has computed, in steps of STEP_SECONDS between which the event loop does other work."""

    def __init__(self) -> None:
        self._clock = asyncio.get_running_loop().time
        self._began = self._clock()
        self._took = 0.0

    def took(self) -> float:
        """Return the time that the task has computed, in seconds."""
        return self._took + self._clock() - self._began

    async def give_way(self) -> None:
        """Let the event loop do other work if the present step has taken its time."""
        if self._clock() - self._began >= STEP_SECONDS:
            await self.outside(asyncio.sleep(0))

    async def outside(self, work: Awaitable[object]) -> None:
        """Wait for work of others, whose time does not count."""
        self._took = self.took()
        await work
        self._began = self._clock()


def advice(error: Exception) -> dict[str, str]:
    """Return the field `advice` of the log line about a server that refuses to listen; no field for other errors."""
    if not isinstance(error, Refused):
        return {}
    if error.sqlstate in RECOVERY:
        return {"advice": "a standby cannot listen: set POLLCAST_LISTEN_URL to the primary"}
    if error.sqlstate == POOLED:
        return {"advice": "set POLLCAST_LISTEN_URL to the database itself, or to a pool that lends whole sessions"}
    return {"advice": "set POLLCAST_LISTEN_URL to a PostgreSQL that can LISTEN, or remove listen from the catalogue"}
