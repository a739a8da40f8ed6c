"""The Feed service: what this poller owns, to every gateway that asks (proto/pollcast/v1/feed.proto).

One stream per gateway lives as long as both processes do. A topic may be attached before, while and after this poller
owns it: its updates flow whenever it does. Updates are encoded once and handed on as bytes. A gateway that reads slowly
costs this poller at most `QUEUE_BYTES` and the snapshot under way: beyond, what waits for a topic is dropped and
replaced by its state at the time when its turn comes.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from pollcast.poller import metrics
from pollcast.poller.owned import OwnedTopic, Updates
from pollcast.services.process import logs
from pollcast.v1 import feed_pb2

log = logs.get_logger("feed")

SERVICE = feed_pb2.DESCRIPTOR.services_by_name["Feed"].full_name

QUEUE_BYTES = 8 * 1024 * 1024
"""Per gateway."""

BATCH_BYTES = 64 * 1024
"""Of one message to a gateway, which handles it in one go."""

UNKNOWN = "unknown"
"""Stands for the state when the update that reported it may have been dropped, or belonged to another epoch."""


OnGatewayGone = Callable[[str], None]
"""Callback for the end of a gateway's stream that this poller did not end itself; receives the gateway's node name."""


@dataclass(slots=True)
class Waiting:
    """What waits to be sent of one topic: updates that belong together and are under way, later ones, or a mark that
    the topic's state is to be sent when its turn comes (`fresh`)."""

    under_way: deque[bytes] = field(default_factory=deque)
    later: deque[Updates] = field(default_factory=deque)
    fresh: bool = False


class Stream:
    """One gateway's attachments, and what waits for it. Topics take turns."""

    def __init__(self, owned: Mapping[str, OwnedTopic], limit: int = QUEUE_BYTES) -> None:
        self.gateway = ""  # its node, once it has said so
        self._owned = owned
        self._limit = limit
        self._told: dict[str, str] = {}  # attached topics, with the state that the gateway was told last
        self._waiting: dict[str, Waiting] = {}  # in the order of their turns
        self._queued = 0  # bytes in `later` of all topics
        self._something = asyncio.Event()

    def attach(self, name: str, epoch: int, seq: int) -> None:
        """The gateway has (epoch, seq) of the topic already: that is not sent again, but the state always is, as the
        gateway may have called the topic stale while it did not reach this poller."""
        self.detach(name)
        self._told[name] = UNKNOWN
        owned = self._owned.get(name)
        if owned is None or (owned.seq == 0 and owned.state == "live"):
            return
        if (epoch, seq) != (owned.epoch, owned.seq):
            self._waiting[name] = Waiting(fresh=True)
        else:
            self._queue(name, [owned.status()])
            self._told[name] = owned.state
        self._something.set()

    @property
    def attached(self) -> Iterable[str]:
        """The topics."""
        return self._told

    def detach(self, name: str) -> None:
        self._drop(name)
        self._told.pop(name, None)

    def push(self, name: str, updates: Updates) -> None:
        """The topic changed."""
        told = self._told.get(name)
        if told is None:
            return
        waiting = self._waiting.get(name)
        if waiting is not None and waiting.fresh:
            return
        owned = self._owned[name]
        self._queue(name, [*updates, owned.status()] if told == UNKNOWN else updates)
        self._told[name] = owned.state
        if self._queued > self._limit:
            self._reset(name)
        self._something.set()

    def forget(self, name: str) -> None:
        """The topic is not this poller's any more: nothing more of it leaves."""
        self._drop(name)
        if name in self._told:
            self._told[name] = UNKNOWN

    async def batches(self) -> AsyncIterator[list[bytes]]:
        """All updates that are to be sent, those together that are ready at the same time, up to about BATCH_BYTES;
        never ends by itself."""
        while True:
            while not self._waiting:
                self._something.clear()
                await self._something.wait()
            batch: list[bytes] = []
            size = 0
            while self._waiting and size < BATCH_BYTES:
                update = self._next(next(iter(self._waiting)))
                if update is not None:
                    batch.append(update)
                    size += len(update)
            if batch:
                yield batch

    def _next(self, name: str) -> bytes | None:
        waiting = self._waiting.pop(name)
        if not waiting.under_way:
            if waiting.fresh:
                owned = self._owned[name]
                waiting.fresh = False
                waiting.under_way.extend(owned.current_updates(self._told[name]))
                self._told[name] = owned.state
            elif waiting.later:
                waiting.under_way.extend(waiting.later.popleft())
                self._queued -= sum(map(len, waiting.under_way))
        update = waiting.under_way.popleft() if waiting.under_way else None
        if waiting.under_way or waiting.later or waiting.fresh:
            self._waiting[name] = waiting  # at the end: the others have their turn
        return update

    def _queue(self, name: str, updates: Updates) -> None:
        self._waiting.setdefault(name, Waiting()).later.append(updates)
        self._queued += sum(map(len, updates))

    def _reset(self, name: str) -> None:
        """What is under way goes on; the rest gives way to the state at the time when its turn comes."""
        waiting = self._waiting[name]
        self._queued -= sum(len(update) for updates in waiting.later for update in updates)
        waiting.later.clear()
        waiting.fresh = True
        self._told[name] = UNKNOWN
        metrics.RESETS.inc()

    def _drop(self, name: str) -> None:
        waiting = self._waiting.pop(name, None)
        if waiting is not None:
            self._queued -= sum(len(update) for updates in waiting.later for update in updates)


class Feed:
    """Serves all streams, and is told of everything that changes (`publish`, `forget`)."""

    def __init__(self, owned: Mapping[str, OwnedTopic], on_gateway_gone: OnGatewayGone | None = None) -> None:
        self._owned = owned
        self._on_gateway_gone = on_gateway_gone
        self._streams: set[Stream] = set()
        self._closed = asyncio.Event()

    def publish(self, name: str, updates: Updates) -> None:
        """The owned topic changed; its state is already the new one."""
        for stream in self._streams:
            stream.push(name, updates)

    def forget(self, name: str) -> None:
        """The topic is not owned any more."""
        for stream in self._streams:
            stream.forget(name)

    def receivers(self) -> Counter[str]:
        """How many gateways are attached to each topic; none is absent."""
        return Counter(name for stream in self._streams for name in stream.attached)

    def close(self) -> None:
        """Ends every stream: gateways look for the next owner at once."""
        self._closed.set()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Registers the service. Responses are bytes already, so they are not serialised again."""
        method: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(
            self.subscribe, feed_pb2.FeedRequest.FromString, None
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Subscribe": method}),))

    async def subscribe(
        self, requests: AsyncIterator[feed_pb2.FeedRequest], context: grpc.aio.ServicerContext[object, bytes]
    ) -> None:
        """One gateway's stream, until either side ends it."""
        stream = Stream(self._owned)
        self._streams.add(stream)
        metrics.GATEWAY_STREAMS.inc()
        try:
            async with asyncio.TaskGroup() as tasks:
                writing = tasks.create_task(_write(stream, context))
                reading = tasks.create_task(_read(stream, requests))
                closed = tasks.create_task(self._closed.wait())
                await asyncio.wait((reading, closed, writing), return_when=asyncio.FIRST_COMPLETED)
                for task in (writing, reading, closed):
                    task.cancel()
        finally:
            self._streams.discard(stream)
            if self._on_gateway_gone is not None and stream.gateway and not self._closed.is_set():
                self._on_gateway_gone(stream.gateway)
            metrics.GATEWAY_STREAMS.dec()


async def _write(stream: Stream, context: grpc.aio.ServicerContext[object, bytes]) -> None:
    async for batch in stream.batches():
        try:
            await context.write(feed_pb2.FeedUpdates(updates=batch).SerializeToString())
        except grpc.aio.InternalError:  # how grpc.aio says that the peer is gone
            return
        metrics.UPDATES.inc(len(batch))
        metrics.UPDATE_BYTES.inc(sum(map(len, batch)))


async def _read(stream: Stream, requests: AsyncIterator[feed_pb2.FeedRequest]) -> None:
    async for request in requests:
        if not stream.gateway:
            stream.gateway = request.gateway
            log.info("gateway connected", gateway=request.gateway)
        for name in request.detach:
            stream.detach(name)
        for attach in request.attach:
            stream.attach(attach.topic, attach.epoch, attach.seq)
