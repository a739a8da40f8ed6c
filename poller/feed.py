"""The Feed service: the updates of this poller's topics, sent to every gateway (docs/reference/grpc.md#feed).

One stream per gateway lasts as long as both processes do. A gateway may attach a topic before, while or after this
poller owns it: the topic's updates flow whenever it is owned. Updates are encoded once and forwarded as bytes. A stream
never falls silent: without updates it carries an empty message every second, so that a gateway notices a poller that
stands still.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import grpc
import grpc.aio

from pollcast.poller import metrics
from pollcast.poller.gateway_stream import GatewayStream, messages
from pollcast.poller.owned import OwnedTopic, Updates
from pollcast.services.process import logs
from pollcast.services.serving import rpc
from pollcast.v1 import feed_pb2

log = logs.get_logger("feed")

SERVICE = feed_pb2.DESCRIPTOR.services_by_name["Feed"].full_name

OnGatewayGone = Callable[[str], None]
"""Callback for the end of a gateway's stream that this poller did not end itself; receives the gateway's node name."""

OnPoke = Callable[[feed_pb2.FeedPokes, grpc.aio.ServicerContext[Any, Any]], Awaitable[feed_pb2.FeedPoked]]
"""Function that answers the method Poke."""

OnDescribe = Callable[[feed_pb2.FeedQueries, grpc.aio.ServicerContext[Any, Any]], Awaitable[feed_pb2.FeedRows]]
"""Function that answers the method Describe."""


class Feed:
    """The servicer of Feed. Notify it of every change of an owned topic by `publish` and `forget`."""

    def __init__(
        self,
        owned: Mapping[str, OwnedTopic],
        on_gateway_gone: OnGatewayGone | None = None,
        on_poke: OnPoke | None = None,
        on_describe: OnDescribe | None = None,
    ) -> None:
        """Without `on_poke` and `on_describe`, the methods Poke and Describe are not served."""
        self._owned = owned
        self._on_poke = on_poke
        self._on_describe = on_describe
        self._on_gateway_gone = on_gateway_gone
        self._streams: set[GatewayStream] = set()
        self._closed = asyncio.Event()

    def publish(self, name: str, updates: Updates) -> None:
        """Send the updates of an owned topic, whose state is already the new one, to the gateways attached to it."""
        for stream in self._streams:
            stream.push(name, updates)

    def forget(self, name: str) -> None:
        """Drop the queued updates of a topic that is not owned any more."""
        for stream in self._streams:
            stream.forget(name)

    def receivers(self, topic: str) -> int:
        """Return the number of gateways attached to the topic."""
        return sum(topic in stream.attached for stream in self._streams)

    def is_reached(self, seconds: float) -> bool:
        """Return whether any gateway reaches this poller, after this further time since the last call."""
        for stream in self._streams:
            stream.silence += seconds
        return any(stream.is_sound for stream in self._streams)

    def close(self) -> None:
        """End every stream; gateways then look for the topics' next owners at once."""
        self._closed.set()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the service. The responses of Subscribe are serialized already."""
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Subscribe": grpc.stream_stream_rpc_method_handler(self.subscribe, feed_pb2.FeedRequest.FromString, None)
        }
        if self._on_poke is not None:
            methods["Poke"] = grpc.unary_unary_rpc_method_handler(
                self._on_poke, feed_pb2.FeedPokes.FromString, feed_pb2.FeedPoked.SerializeToString
            )
        if self._on_describe is not None:
            methods["Describe"] = grpc.unary_unary_rpc_method_handler(
                self._on_describe, feed_pb2.FeedQueries.FromString, feed_pb2.FeedRows.SerializeToString
            )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))

    async def subscribe(
        self, requests: AsyncIterator[feed_pb2.FeedRequest], context: grpc.aio.ServicerContext[object, bytes]
    ) -> None:
        """Serve one gateway's stream until either side ends it."""
        stream = GatewayStream(self._owned)
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


async def _write(stream: GatewayStream, context: grpc.aio.ServicerContext[object, bytes]) -> None:
    try:
        await context.send_initial_metadata((rpc.GREETING,))
    except grpc.aio.InternalError:  # raised by grpc.aio when the peer is gone
        return
    async for batch in stream.batches():
        try:
            for message in messages(batch):
                await context.write(message)
        except grpc.aio.InternalError:  # the peer is gone
            return
        metrics.UPDATES.inc(len(batch))
        metrics.UPDATE_BYTES.inc(sum(map(len, batch)))


async def _read(stream: GatewayStream, requests: AsyncIterator[feed_pb2.FeedRequest]) -> None:
    async for request in requests:
        stream.silence = 0.0
        stream.beats = stream.beats or request.beats
        if not stream.gateway:
            stream.gateway = request.gateway
            log.info("gateway connected", gateway=request.gateway)
        for name in request.detach:
            stream.detach(name)
        for attach in request.attach:
            stream.attach(attach.topic, attach.epoch, attach.seq, attach.attachment, attach.definition)
