"""Simulated pollers: many pollers in one process, without a database. `python -m bench.scale.pollers ORDER`.

They register, claim and release topics by the product's transactions, serve the product's Feed with a result that never
changes, and report. There are three kinds. `product` runs the product's `Ownership` for each poller, so each does all
that a real one does but for polling. `light` pollers (bench/scale/crowd.py) decide together. `idle` ones are registered
and claim nothing, so that the real pollers have all topics in the end, and wait for their turn for each.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import uvloop

from bench.scale.crowd import Crowd, LightPoller
from bench.scale.listeners import listen
from bench.scale.nodes import Place, SimulatedNode, obey, served
from bench.scale.served_topics import Report, Served
from pollcast.poller.feed import SERVICE
from pollcast.poller.ownership import Ownership
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.node import LeasedPart
from pollcast.services.process import logs
from pollcast.services.process.settings import EtcdSettings


async def main(order: dict[str, Any]) -> None:
    """Run the pollers that the order names until the standard input ends."""
    place = Place(tuple(order["etcd"]), order["namespace"], order["ttl"], order["catalog"])
    catalog = catalogue.load(Path(place.catalog))
    light, product = order["kind"] == "light", order["kind"] == "product"
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        etcd = await stack.enter_async_context(Etcd.open(EtcdSettings(etcd=place.etcd, namespace=place.namespace)))
        crowd = Crowd(place, etcd, tuple(order["share"]))
        nodes: dict[str, SimulatedNode] = {}
        shown: list[Served] = []

        def touch(name: str, topic: str) -> None:
            nodes[name].reporting.touch(topic)

        for name in order["names"]:
            topics_of = Served(catalog, partial(touch, name))
            server = await stack.enter_async_context(served(place, name, topics_of.feed.add_to, SERVICE))
            address = f"{server.host}:{server.port}"
            client = await stack.enter_async_context(Etcd.open(place.settings(name)))
            report = Report(name, catalog, topics_of)
            part: LeasedPart
            if product:
                part = Ownership(client, place.keys, name, address, topics_of, topics_of.definitions).run
            else:
                poller = crowd.pollers[name] = LightPoller(crowd, name, address, topics_of)
                part = poller.own
            nodes[name] = SimulatedNode(place, client, server, "poller", name, [part], report)
            shown.append(topics_of)

        async def execute(what: dict[str, Any]) -> dict[str, Any]:
            """Carry out an order: `start` registers the pollers, `state` only answers."""
            if what["do"] == "start":
                running.extend(tasks.create_task(key_watch.run()) for key_watch in crowd.watches if light)
                running.append(tasks.create_task(crowd.sweep()))
                running.append(tasks.create_task(listen(place.etcd[0], what["listens"] if light else [], len(nodes))))
                for key_watch in crowd.watches if light else ():
                    await key_watch.following.wait()
                running.extend(tasks.create_task(node.run()) for node in nodes.values())
            lost = sum(node.sessions - 1 for node in nodes.values() if node.sessions)
            return {"owned": [len(each) for each in shown], "lost": lost}

        running: list[asyncio.Task[None]] = []
        await obey(execute)
        for task in running:
            task.cancel()


if __name__ == "__main__":
    logs.configure(level=30)
    uvloop.run(main(orjson.loads(sys.argv[1])))
