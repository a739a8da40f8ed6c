"""The command `pollcast poke`: a topic, or all topics of a query, are polled at once."""

from __future__ import annotations

import json

from pollcast.services.coordination.reach import some_coordinator
from pollcast.services.process.settings import ServiceSettings
from pollcast.v1 import types_pb2


async def poke(topic: str, settings: ServiceSettings, *, as_json: bool) -> None:
    """Poke the topic and print the number of topics that are polled for it.

    Raises NoEtcd when etcd is not reached, NoCoordinator when no coordinator answers, and Refused for an unknown query
    and for parameters that it does not have.
    """
    async with some_coordinator(settings) as coordinator:
        topics = (await coordinator.Poke(types_pb2.PokeRequest(topic=topic))).topics
    if as_json:
        print(json.dumps({"topics": topics}))
    else:
        print({0: "nobody watches it now", 1: "1 topic is polled now"}.get(topics, f"{topics} topics are polled now"))
