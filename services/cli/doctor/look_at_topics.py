"""Observation of the topics: their states as a coordinator lists them, and why some of them fail."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence

import grpc.aio
import orjson

from pollcast.services.cli.doctor.http_get import get
from pollcast.services.cli.doctor.look_at_nodes import plain
from pollcast.services.cli.doctor.observations import NodeSeen, TopicsSeen, Trouble
from pollcast.services.cli.listing import listed_topics
from pollcast.services.process.settings import ServiceSettings
from pollcast.services.serving import rpc
from pollcast.v1 import cluster_pb2, cluster_pb2_grpc

TOPICS_SECONDS = 2.5
"""Time for listing the topics, in seconds."""

REASON_SECONDS = 1.0
"""Time that a gateway has to say why a topic fails, in seconds."""

REASONS = 5
"""Maximum number of queries whose reason is asked for."""


async def look_at_topics(nodes: Sequence[NodeSeen], settings: ServiceSettings) -> TopicsSeen:
    """Return what is seen of the topics."""
    for node in nodes:
        if node.record.role == "coordinator" and node.record.grpc is not None and node.serving:
            return await _ask(node.record.grpc, nodes, settings)
    return TopicsSeen("no coordinator answers")


async def _ask(coordinator: str, nodes: Sequence[NodeSeen], settings: ServiceSettings) -> TopicsSeen:
    live = 0
    states: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], cluster_pb2.TopicInfo] = {}
    complete = False
    async with rpc.channel(coordinator, settings) as channel:
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TOPICS_SECONDS):
                    async for topic in listed_topics(cluster_pb2_grpc.ClusterStub(channel)):
                        if topic.state == "live":
                            live += 1
                        elif topic.gateways:  # nobody waits for the others
                            kind = topic.topic.partition("?")[0], topic.state
                            states[kind] += 1
                            examples.setdefault(kind, topic)
                    complete = True
        except grpc.aio.AioRpcError as error:
            return TopicsSeen(plain(error.details() or error.code().name))
    worst = states.most_common()
    reasons = await asyncio.gather(*(_reason(examples[kind], nodes) for kind, _ in worst[:REASONS]))
    by_kind = dict(zip((kind for kind, _ in worst), reasons, strict=False))
    troubles = [
        Trouble(query, state, number, examples[query, state].topic, by_kind.get((query, state)))
        for (query, state), number in worst
    ]
    return TopicsSeen(live=live, troubles=tuple(troubles), complete=complete)


async def _reason(topic: cluster_pb2.TopicInfo, nodes: Sequence[NodeSeen]) -> str | None:
    """Return why a topic fails, as a gateway says that serves it without a token; None when none says so."""
    serving = {gateway.name for gateway in topic.gateways}
    addresses = [node.record.http for node in nodes if node.record.node in serving and node.ready]
    if topic.state != "failed" or not addresses or addresses[0] is None:
        return None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        answer = await get(addresses[0], f"/live/{topic.topic}", REASON_SECONDS)
        if answer.status == 500:
            return str(orjson.loads(answer.body)["detail"])
    return None
