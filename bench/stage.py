"""Real gateway processes on a real etcd, with a stand-in for the poller that needs no database.

The stand-in serves the real Feed (`poller.feed`) from this process and owns all topics from the beginning.
`Stage.change` takes the place of a poll that found another result, so the gateway does the same work as with a poller.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import random
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from bench import metrics
from bench.processes import Process, module, running
from pollcast.poller.feed import SERVICE, Feed
from pollcast.poller.owned import OwnedTopic
from pollcast.services import clock
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.catalogue import topics
from pollcast.services.catalogue.definitions import definition
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import Keys, OwnerRecord
from pollcast.services.coordination.registry import node_record
from pollcast.services.delta import Row
from pollcast.services.local import ports
from pollcast.services.local.etcd_server import EtcdServer
from pollcast.services.process.settings import EtcdSettings, ServiceSettings
from pollcast.services.serving import rpc

CATALOG = """
[queries.bench]
title = "Rows that change"
sql = "select id, text from bench where n = %(n)s"
key = ["id"]
interval = "1s"
[queries.bench.params]
n = { type = "int", default = 0 }

[queries.whole]
sql = "select text from bench"
interval = "1s"

[queries.plain]
sql = "select text from bench where n = %(n)s"
interval = "1s"
[queries.plain.params]
n = { type = "int", default = 0 }

[queries.room]
sql = "select text from bench"
interval = "1s"
presence = true
"""

WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet", "jetty", "knoll", "larch"]

WHOLE = "whole"
"""A topic without a key, which sends a snapshot with every change."""

SOCKET = "/socket/websocket?vsn=2.0.0"

START_SECONDS = 20.0


@dataclass
class Stage:
    """Gateways that are ready, their HTTP ports, and the stand-in for a poller that owns the topics."""

    gateways: list[Process]
    ports: list[int]
    owned: dict[str, OwnedTopic]
    feed: Feed
    etcd: Etcd

    async def revision(self) -> int:
        """Return etcd's revision, which grows by one with every write."""
        return (await self.etcd.range("/bench/")).revision

    @property
    def gateway(self) -> Process:
        """The first gateway."""
        return self.gateways[0]

    @property
    def port(self) -> int:
        """The HTTP port of the first gateway."""
        return self.ports[0]

    def change(self, topic: str, rows: list[Row]) -> None:
        """Publish these rows as the result of a poll of the topic."""
        owned = self.owned[topic]
        self.feed.publish(topic, owned.record_result(rows, clock.now_us()))

    def metrics(self) -> dict[str, float]:
        """Read the metrics of the first gateway."""
        return metrics.read(f"127.0.0.1:{self.port}")

    @staticmethod
    def joins(names: list[str]) -> list[str]:
        """Return the message that joins each of the topics."""
        return [f'["1","1","live:{name}","phx_join",{{}}]' for name in names]


def topic_names(count: int) -> list[str]:
    """Return this number of canonical topics."""
    return [f"bench?n={n}" for n in range(count)]


def rows(count: int, size: int, stamp: int = 0) -> list[Row]:
    """Return `count` rows of `size` bytes of JSON that vary as an application's rows do, and with the stamp."""
    return [(b"[%d]" % number, _row(number, size, stamp)) for number in range(count)]


def _row(number: int, size: int, stamp: int) -> bytes:
    dice = random.Random(number * 1_000_003 + stamp)
    row = {
        "id": number,
        "customer": f"{dice.choice(WORDS)} {dice.choice(WORDS)}",
        "amount": dice.randrange(10**5, 10**6) / 100,
        "updated_at": f"2026-11-23T{dice.randrange(10, 24)}:{dice.randrange(10, 60)}:{dice.randrange(10, 60)}Z",
        "note": " ".join(dice.choices(WORDS, k=size // 5)),
    }
    return orjson.dumps(row)[: size - 2] + b'"}'


def noise(size: int) -> list[Row]:
    """Return one row of about `size` random hexadecimal digits, which hardly compress."""
    return [(b"", b'{"text":"%b"}' % os.urandom(size // 2).hex().encode())]


@contextlib.asynccontextmanager
async def stage(
    names: list[str], result: list[Row], gateways: int = 1, environment: dict[str, str] | None = None
) -> AsyncIterator[Stage]:
    """Run etcd, the stand-in and the gateways until they are ready. All topics have this result.

    `environment` is added to that of the gateways.
    """
    with tempfile.TemporaryDirectory(prefix="pollcast-bench-") as folder:
        file = Path(folder) / "catalog.toml"
        file.write_text(CATALOG)
        catalog = catalogue.load(file)
        keys = Keys("/bench")
        with EtcdServer.start(Path(folder) / "etcd", fsync=False) as server:
            async with Etcd.open(EtcdSettings(etcd=server.endpoints, namespace="/bench")) as etcd:
                owned: dict[str, OwnedTopic] = {}
                feed = Feed(owned)
                settings = ServiceSettings(etcd=server.endpoints, namespace="/bench", node="stand-in")
                async with rpc.serve(settings, [feed.add_to], [SERVICE]) as listening:
                    address = f"{listening.host}:{listening.port}"
                    record = node_record("poller", "stand-in", None, address)
                    await etcd.put(keys.node("poller", "stand-in"), record.encode())
                    for name in names:
                        owner = OwnerRecord("stand-in", address, clock.now_rfc3339())
                        epoch = await etcd.put(keys.owner(name), owner.encode())
                        topic = topics.parse_canonical(name, catalog)
                        owned[name] = OwnedTopic(topic, epoch, clock.now_us(), definition(topic.query))
                        owned[name].record_result(result, clock.now_us())
                    async with contextlib.AsyncExitStack() as stack:
                        started = []
                        for number in range(gateways):
                            port = ports.free_port()
                            env = {
                                "POLLCAST_ETCD": server.endpoint,
                                "POLLCAST_NAMESPACE": "/bench",
                                "POLLCAST_CATALOG": str(file),
                                "POLLCAST_HTTP": f"127.0.0.1:{port}",
                                "POLLCAST_NODE": f"bench-{number}",
                                "POLLCAST_MAX_CONNECTIONS": "19000",
                                **(environment or {}),
                            }
                            command = module("pollcast", "gateway")
                            log = Path(folder) / f"gateway-{number}.log"
                            process = running(*command, environment=env, errors=log)
                            started.append((await stack.enter_async_context(process), port))
                        for _, port in started:
                            await _until_ready(port)
                        yield Stage([p for p, _ in started], [port for _, port in started], owned, feed, etcd)
                        feed.close()


async def _until_ready(port: int) -> None:
    """Wait until the gateway on this port is ready; raises TimeoutError after START_SECONDS."""
    async with asyncio.timeout(START_SECONDS):
        while not await asyncio.to_thread(is_ready, port):  # noqa: ASYNC110 - a process gives no event to await
            await asyncio.sleep(0.1)


def is_ready(port: int) -> bool:
    """Return whether the service on this port reports that it is ready."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2.0)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
