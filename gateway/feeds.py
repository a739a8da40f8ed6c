"""The gateway's end of Feed: one stream to each poller, topics multiplexed on it.

A link is opened to every poller that is registered, before any of its topics is wanted, so that a change of owner costs
no connection. A link that breaks is opened again, with a short, growing pause, as long as the poller is registered or a
topic is attached; attachments are sent anew on each stream, with what the gateway has, so that an owner that is still
the same sends only what is missing. When a link breaks, its topics are told to be unreached, nothing else happens to
them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import grpc
import grpc.aio

from pollcast.gateway.version import Version
from pollcast.gateway.wire import Outbox
from pollcast.services.process import logs
from pollcast.services.process.settings import GatewaySettings, HostPort
from pollcast.services.serving import rpc
from pollcast.v1 import feed_pb2, feed_pb2_grpc

log = logs.get_logger("feeds")

CONNECT_SECONDS = 3.0
RETRY_SECONDS = (0.05, 1.0)
"""The first and the longest pause before a broken link is opened again."""

OnUpdate = Callable[[HostPort, feed_pb2.FeedUpdate], None]
OnLink = Callable[[HostPort, bool], None]
Have = Callable[[str], Version | None]


class Link:
    """The stream to one poller. `have` tells what the gateway has of a topic when it attaches."""

    def __init__(self, address: HostPort, settings: GatewaySettings, on_update: OnUpdate, on_link: OnLink, have: Have):
        self.address = address
        self.attached: set[str] = set()
        self.up = False
        self._settings = settings
        self._on_update = on_update
        self._on_link = on_link
        self._have = have
        self._attach: dict[str, bool] = {}  # topic → attach (True) or detach (False), not sent yet
        self._change = asyncio.Event()
        self._hurry = asyncio.Event()
        self._turn = 0  # counts the streams, and their ends

    def attach(self, topic: str) -> None:
        self.attached.add(topic)
        self._attach[topic] = True
        self._change.set()
        self._hurry.set()

    def detach(self, topic: str) -> None:
        if topic in self.attached:
            self.attached.discard(topic)
            self._attach[topic] = False
            self._change.set()

    async def run(self) -> None:
        """Until cancelled."""
        pause = RETRY_SECONDS[0]
        async with rpc.channel(self.address, self._settings) as channel:
            while True:
                try:
                    async with asyncio.timeout(CONNECT_SECONDS):
                        await channel.channel_ready()
                    pause = RETRY_SECONDS[0]
                    await self._stream(feed_pb2_grpc.FeedStub(channel))
                    detail = "ended by the poller"
                except (grpc.aio.AioRpcError, TimeoutError) as error:
                    detail = error.code().name if isinstance(error, grpc.aio.AioRpcError) else "no connection"
                except asyncio.CancelledError:
                    self._set_up(False)
                    raise
                log.info("link broken", poller=self.address, detail=detail, topics=len(self.attached))
                self._set_up(False)
                self._hurry.clear()
                try:
                    async with asyncio.timeout(pause * random.uniform(0.5, 1.0)):
                        await self._hurry.wait()
                except TimeoutError:
                    pause = min(pause * 2, RETRY_SECONDS[1])

    async def _stream(self, stub: feed_pb2_grpc.FeedAsyncStub) -> None:
        self._turn += 1
        call = stub.Subscribe(self._requests(self._turn))
        try:
            self._set_up(True)
            outbox = Outbox.of(asyncio.get_running_loop())
            with rpc.heeding_cancellation():
                async for message in call:
                    if len(message.updates) == 1:
                        self._on_update(self.address, feed_pb2.FeedUpdate.FromString(message.updates[0]))
                        continue
                    with outbox:  # a socket may have many of these topics
                        for update in message.updates:
                            self._on_update(self.address, feed_pb2.FeedUpdate.FromString(update))
        finally:
            call.cancel()
            self._turn += 1
            self._change.set()

    async def _requests(self, turn: int) -> AsyncIterator[feed_pb2.FeedRequest]:
        """Of one stream. grpc.aio goes on asking for the next, in a task that nobody else ends, after the stream has
        broken by itself: then there is none."""
        self._attach = dict.fromkeys(self.attached, True)
        yield self._request()
        while True:
            await self._change.wait()
            if turn != self._turn:
                return
            yield self._request()

    def _request(self) -> feed_pb2.FeedRequest:
        self._change.clear()
        request = feed_pb2.FeedRequest(gateway=self._settings.node)
        for topic, attach in self._attach.items():
            if attach:
                epoch, seq = self._have(topic) or (0, 0)
                request.attach.add(topic=topic, epoch=epoch, seq=seq)
            else:
                request.detach.append(topic)
        self._attach = {}
        return request

    def _set_up(self, up: bool) -> None:
        if up != self.up:
            self.up = up
            self._on_link(self.address, up)


class Feeds:
    """All links. `run` keeps one to each address of `poller_is_at` and of an attached topic."""

    def __init__(self, settings: GatewaySettings, on_update: OnUpdate, on_link: OnLink, have: Have) -> None:
        self._settings = settings
        self._on_update = on_update
        self._on_link = on_link
        self._have = have
        self._links: dict[HostPort, Link] = {}
        self._pollers: set[HostPort] = set()
        self._change = asyncio.Event()

    def set_pollers(self, addresses: set[HostPort]) -> None:
        """The pollers that are registered now."""
        self._pollers = addresses
        self._change.set()

    def attach(self, topic: str, address: HostPort) -> None:
        """From now on updates of the topic are wanted from that poller. Again: what is missing is sent anew."""
        self._link(address).attach(topic)

    def detach(self, topic: str, address: HostPort) -> None:
        link = self._links.get(address)
        if link is not None:
            link.detach(topic)
            self._change.set()

    def is_up(self, address: HostPort) -> bool:
        link = self._links.get(address)
        return link is not None and link.up

    @property
    def connected(self) -> int:
        """How many streams stand."""
        return sum(link.up for link in self._links.values())

    def _link(self, address: HostPort) -> Link:
        link = self._links.get(address)
        if link is None:
            link = self._links[address] = Link(address, self._settings, self._on_update, self._on_link, self._have)
            self._change.set()
        return link

    async def run(self) -> None:
        """Until cancelled."""
        tasks: dict[HostPort, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                self._change.clear()
                for address in self._pollers:
                    self._link(address)
                for address, link in list(self._links.items()):
                    if address not in self._pollers and not link.attached:
                        del self._links[address]
                        if address in tasks:
                            tasks.pop(address).cancel()
                    elif address not in tasks:
                        tasks[address] = group.create_task(link.run())
                await self._change.wait()
