"""The gateway's end of Feed: one stream to each poller, with all topics multiplexed on it.

A link is opened to every registered poller, before any of its topics is wanted, so that a change of owner costs no
connection. A broken link is opened again, after a short, growing pause, as long as its poller is registered or a topic
is attached to it. On each stream the attachments are sent again, with the version that the gateway has, so that an
unchanged owner sends only the missing updates. A broken link does nothing to its topics but mark them as unreached.

Every attachment has a number of its own, and an update is applied only when it answers the present attachment of its
topic: whatever was sent before an attachment, on this stream or another one, is dropped.

A poller greets at once, and sends something every second; a gateway sends something every 2 s, by which the poller
knows that it is reached. A stream is up when the poller has greeted: another server
may answer at its address. A stream that is silent for SILENT_SECONDS is given up, because its poller or the way to it
stands still; the link connects anew until the poller answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator

import grpc
import grpc.aio

from pollcast.gateway.attachments import Attachments, KnownVersion
from pollcast.gateway.change import Change
from pollcast.gateway.feed_updates import Update, decode
from pollcast.gateway.outbox import Outbox
from pollcast.gateway.silence import Silence
from pollcast.gateway.topic import LiveTopic
from pollcast.services.clock import now_us
from pollcast.services.process import logs, tracing
from pollcast.services.process.addresses import HostPort
from pollcast.services.process.cancellation import heeding_cancellation
from pollcast.services.process.occasional import Occasional
from pollcast.services.process.settings import GatewaySettings
from pollcast.services.serving import rpc
from pollcast.services.serving.poke_line import PokeLine
from pollcast.v1 import feed_pb2, feed_pb2_grpc

log = logs.get_logger("feeds")

CONNECT_SECONDS = 3.0
"""Maximum time to connect to a poller, in seconds."""

RETRY_SECONDS = (0.05, 1.0)
"""The first and the longest pause before a broken link is opened again, in seconds."""

SILENT_SECONDS = 3.3
"""Silence of a poller after which its topics are unreached, in seconds.

A poller's heartbeat comes every second, and its event loop may stand still for 2 s.
"""

FORGIVEN_SECONDS = 2.0
"""Silence before a stream breaks that does not count as time without the stream, in seconds.

A poller in order sends nothing for a second, and its event loop may stand still. What exceeds this shows that the
stream was dead before it broke.
"""

BEAT_SECONDS = 2.0
"""Maximum time between two requests on a stream, in seconds; one that changes nothing tells the poller that it is
reached."""

SOCKETS_AT_ONCE = 1000
"""Number of sockets that wait to be written to after which the rest of a message is applied in a later turn."""

CHECK_SECONDS = 0.2
"""Time between two checks for silence, in seconds."""


OnUpdate = Callable[[HostPort, Update], LiveTopic | None]
"""Applies an update from the poller at that address; returns the topic, or None when the update was dropped."""

OnLink = Callable[[HostPort, bool, float], None]
"""Notices that the stream to the poller at that address is up (True) or has broken (False).

The last argument is the time since when, in monotonic seconds (`broken_since`).
"""


def broken_since(now: float, silence: float) -> float:
    """Return the time since when the topics of a stream are unreached that breaks `now`, after so much silence. Pure.

    A stream that breaks in good order breaks now: the next owner has as long as any to take the topics over.
    """
    return now - max(0.0, silence - FORGIVEN_SECONDS)


def apply_some(
    updates: Iterator[feed_pb2.FeedUpdate], apply: Callable[[feed_pb2.FeedUpdate], None], outbox: Outbox
) -> bool:
    """Apply updates until SOCKETS_AT_ONCE have something to write, write it, and return whether there may be more."""
    with outbox:  # a socket may have many of these topics
        for update in updates:
            apply(update)
            if len(outbox.buffering) >= SOCKETS_AT_ONCE:
                return True
    return False


class Link:
    """The stream to the poller at one address, and the topics that are attached to it."""

    def __init__(
        self, address: HostPort, settings: GatewaySettings, on_update: OnUpdate, on_link: OnLink, known: KnownVersion
    ) -> None:
        self.address = address
        self.attachments = Attachments()
        self.up = False
        self._settings = settings
        self._on_update = on_update
        self._on_link = on_link
        self._known = known
        self._change = asyncio.Event()
        self._hurry = asyncio.Event()
        self._turn = 0  # counts the streams, and their ends
        self.pokes = PokeLine()
        self.stub: feed_pb2_grpc.FeedAsyncStub | None = None
        """The poller's service, while there is a stream to it."""
        self._silence = Silence(time.monotonic())
        self._no_poller = Occasional(log.warning, "no poller answers at the address of one")
        self._deadline: asyncio.Timeout | None = None  # of the present stream

    def attach(self, topic: str) -> None:
        """Attach the topic, now or once there is a stream. Repeat it to get the missing updates again."""
        self.attachments.attach(topic)
        self._change.set()
        self._hurry.set()

    def detach(self, topic: str) -> None:
        """Detach the topic, if it is attached."""
        if self.attachments.detach(topic):
            self._change.set()

    def receive(self, message: feed_pb2.FeedUpdate) -> None:
        """Apply one update, and record the age and the trace of a delta that was passed on to clients.

        Drop an update that does not answer the present attachment of its topic.
        """
        received = now_us() if tracing.on else 0
        update = decode(message)
        if not self.attachments.is_current(update.topic, update.attachment):
            return
        live = self._on_update(self.address, update)
        if live is None or not isinstance(update.body, Change):
            return
        passed_on = now_us()
        live.delta_age.observe((passed_on - update.polled_at) / 1e6)
        if tracing.on:
            query = live.topic.query.name
            tracing.pushed(query, update.topic, *update.version, (received, passed_on), live.clients)

    def check(self, now: float) -> None:
        """Give the stream up if it has been silent for too long; `now` is monotonic seconds. Call this often."""
        if self._silence.pass_time(now) > SILENT_SECONDS and self._deadline is not None:
            self._deadline.reschedule(asyncio.get_running_loop().time())
            self._deadline = None

    async def run(self) -> None:
        """Keep the stream open until cancelled."""
        pause, hurried = RETRY_SECONDS[0], False
        while True:
            connected = False
            try:
                # Each stream has a connection of its own: gRPC may take a dead one for sound for a minute.
                async with rpc.channel(self.address, self._settings) as channel:
                    async with asyncio.timeout(CONNECT_SECONDS):
                        await channel.channel_ready()
                    connected = True
                    await self._stream(feed_pb2_grpc.FeedStub(channel))
                detail = "ended by the poller"
            except grpc.aio.AioRpcError as error:
                detail = error.code().name
            except TimeoutError:
                detail = "silent" if connected else "no connection"
            except asyncio.CancelledError:
                self._set_up(False)
                raise
            if self.up:
                pause, hurried = RETRY_SECONDS[0], False
                log.info("link broken", poller=self.address, detail=detail, topics=len(self.attachments))
            elif detail in ("UNAVAILABLE", "no connection"):
                log.debug("no link", poller=self.address, detail=detail, topics=len(self.attachments))
            else:
                self._no_poller(poller=self.address, detail=detail, topics=len(self.attachments))
            self._set_up(False)
            hurried = await self._rest(pause * random.uniform(0.5, 1.0), hurried)
            pause = min(pause * 2, RETRY_SECONDS[1])

    async def _rest(self, seconds: float, hurried: bool) -> bool:
        """Wait, and return whether that was cut short: a topic that is attached shows that its poller is there. It is
        tried once for that at a time, as topics may be attached all the time: not when the attempt before `hurried`."""
        self._hurry.clear()
        if hurried:
            await asyncio.sleep(seconds)
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
                return True
        return False

    async def _stream(self, stub: feed_pb2_grpc.FeedAsyncStub) -> None:
        """Serve one stream until it ends. Raises TimeoutError when it is given up because of its silence."""
        self._turn += 1
        call = stub.Subscribe(self._requests(self._turn))
        self._silence.end()
        try:
            with heeding_cancellation(grpc.aio.AioRpcError, TimeoutError):
                async with asyncio.timeout(CONNECT_SECONDS):
                    greeting = await call.initial_metadata()
            if rpc.GREETING in tuple(greeting):
                self._set_up(True)
            self.stub = stub
            async with self.pokes.open(stub), asyncio.timeout(None) as self._deadline:
                with heeding_cancellation(grpc.aio.AioRpcError, TimeoutError):
                    await self._receive_all(call)
        finally:
            self._deadline = self.stub = None
            call.cancel()
            self._turn += 1
            self._change.set()

    async def _receive_all(self, call: AsyncIterable[feed_pb2.FeedUpdates]) -> None:
        outbox = Outbox.of(asyncio.get_running_loop())
        parts: list[bytes] = []  # of one update
        async for message in call:
            self._silence.end()
            self._set_up(True)  # a poller of an earlier version does not greet
            if message.part:
                parts.append(message.part)
                if not message.more_parts:
                    self.receive(feed_pb2.FeedUpdate.FromString(b"".join(parts)))
                    parts = []
            elif len(message.updates) == 1:
                self.receive(message.updates[0])
            else:
                left = iter(message.updates)
                while apply_some(left, self.receive, outbox):  # noqa: ASYNC110 - it lets others have a turn
                    await asyncio.sleep(0)

    async def _requests(self, turn: int) -> AsyncIterator[feed_pb2.FeedRequest]:
        """Yield the requests of one stream, until the stream is over.

        When a stream breaks by itself, grpc.aio still awaits the next request in a task that nothing else ends:
        the comparison with `turn` ends it.
        """
        self.attachments.restart()
        yield self._request()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_SECONDS):
                    await self._change.wait()
            if turn != self._turn:
                return
            yield self._request()

    def _request(self) -> feed_pb2.FeedRequest:
        self._change.clear()
        return self.attachments.request(self._settings.node, self._known)

    def _set_up(self, up: bool) -> None:
        if up != self.up:
            self.up = up
            self._on_link(self.address, up, broken_since(time.monotonic(), self._silence.seconds))


class Feeds:
    """The links to all pollers: one to each registered poller and to each address that a topic is attached to."""

    def __init__(self, settings: GatewaySettings, on_update: OnUpdate, on_link: OnLink, known: KnownVersion) -> None:
        self._settings = settings
        self._on_update = on_update
        self._on_link = on_link
        self._known = known
        self._links: dict[HostPort, Link] = {}
        self._pollers: set[HostPort] = set()
        self._change = asyncio.Event()

    def set_pollers(self, addresses: set[HostPort]) -> None:
        """Set the addresses of the pollers that are registered now."""
        self._pollers = addresses
        self._change.set()

    def attach(self, topic: str, address: HostPort) -> None:
        """Subscribe to the topic at that poller. Repeat it to get the missing updates again."""
        self.link(address).attach(topic)

    def detach(self, topic: str, address: HostPort) -> None:
        """Unsubscribe from the topic at that poller."""
        link = self._links.get(address)
        if link is not None:
            link.detach(topic)
            self._change.set()

    def is_up(self, address: HostPort) -> bool:
        """Return whether there is a stream to that poller now."""
        link = self._links.get(address)
        return link is not None and link.up

    def poke_lines(self, address: HostPort | None) -> list[PokeLine]:
        """Return the line of pokes to the poller at that address; those to all connected pollers for None, or when
        that poller is not connected."""
        if address is not None and self.is_up(address):
            return [self._links[address].pokes]
        return [link.pokes for link in self._links.values() if link.up]

    @property
    def stubs(self) -> dict[HostPort, feed_pb2_grpc.FeedAsyncStub]:
        """The services of all connected pollers, in the order of their addresses."""
        links = sorted((link for link in self._links.values() if link.up), key=lambda link: link.address)
        return {link.address: link.stub for link in links if link.stub is not None}

    @property
    def connected(self) -> int:
        """The number of pollers to which there is a stream now."""
        return sum(link.up for link in self._links.values())

    def link(self, address: HostPort) -> Link:
        """Return the link to the poller at that address; create it when there is none."""
        link = self._links.get(address)
        if link is None:
            link = self._links[address] = Link(address, self._settings, self._on_update, self._on_link, self._known)
            self._change.set()
        return link

    async def run(self) -> None:
        """Open and close links as pollers come and go, until cancelled."""
        tasks: dict[HostPort, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            group.create_task(self._check())
            while True:
                self._change.clear()
                for address in self._pollers:
                    self.link(address)
                for address, link in list(self._links.items()):
                    if address not in self._pollers and not link.attachments:
                        del self._links[address]
                        if address in tasks:
                            tasks.pop(address).cancel()
                    elif address not in tasks:
                        tasks[address] = group.create_task(link.run())
                await self._change.wait()

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            now = time.monotonic()
            for link in self._links.values():
                link.check(now)
