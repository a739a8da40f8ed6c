"""The poller service on a real etcd and a real PostgreSQL, with demand as a gateway writes it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import orjson
import psycopg
import pytest
from pydantic import SecretStr

from pollcast.poller import ranking, rebalancing, service
from pollcast.poller.sources import connections
from pollcast.services import clock
from pollcast.services.coordination import registry
from pollcast.services.coordination.client import Etcd, Page
from pollcast.services.coordination.keys import CatalogueRecord, DemandRecord, Keys, NodeRecord, OwnerRecord
from pollcast.services.coordination.mirror import Mirror
from pollcast.services.coordination.predecessor import Predecessor
from pollcast.services.coordination.registry import node_record
from pollcast.services.coordination.session import Session
from pollcast.services.errors import SettingsInvalid
from pollcast.services.local.postgres_server import PostgresServer
from pollcast.services.process import variables
from pollcast.services.process.settings import EtcdSettings, PollerSettings
from pollcast.v1 import feed_pb2, feed_pb2_grpc
from tests.support.databases import new_database
from tests.support.listening import sessions
from tests.support.waiting import eventually

TOPICS = [f"numbered?n={n}" for n in range(6)]
CATALOG = '[queries.one]\nsql = "select 1 as id"\nkey = ["id"]\ninterval = "50ms"\nlinger = "100ms"'
CATALOG += '\n[queries.numbered]\nsql = "select %(n)s as n"\ninterval = "1s"\nparams = { n = "int" }\n'


class Cluster:
    """The cluster in etcd, with a mirror of it."""

    def __init__(self, etcd: Etcd, keys: Keys, session: Session, mirror: Mirror) -> None:
        self.keys = keys
        self._etcd = etcd
        self._session = session
        self._mirror = mirror

    async def add_demand(self, topic: str) -> None:
        value = DemandRecord("gateway-1", clock.now_rfc3339()).encode()
        await self._etcd.put(self.keys.demand(topic, "gateway-1"), value, self._session.lease)

    async def remove_demand(self, topic: str) -> None:
        await self._etcd.delete(self.keys.demand(topic, "gateway-1"))

    async def owner(self, topic: str) -> tuple[OwnerRecord, int]:
        """Wait until the topic has an owner, and return its record and the epoch."""
        kv = await eventually(lambda: self._mirror.items.get(self.keys.owner(topic)))
        assert kv is not None
        return OwnerRecord.decode(kv.value), kv.mod_revision

    async def owned_by(self, name: str, topics: list[str]) -> None:
        """Wait until the poller owns all of these topics."""

        def owners() -> set[str]:
            entries = [self._mirror.items.get(self.keys.owner(topic)) for topic in topics]
            return {"nobody" if kv is None else OwnerRecord.decode(kv.value).node for kv in entries}

        await eventually(lambda: owners() == {name})

    async def put(self, key: str, value: bytes) -> None:
        """Write a key as another live process would."""
        await self._etcd.put(key, value, self._session.lease)

    async def revision(self, key: str) -> int:
        """Return the revision of the key's last write."""
        kv = await self._etcd.get(key)
        assert kv is not None
        return kv.mod_revision

    async def ready(self, name: str) -> NodeRecord:
        """Wait until the poller is ready, and return its record."""
        return await self.node(name, b'"ready"')

    def entry(self, name: str) -> NodeRecord:
        """Return the poller's entry."""
        return NodeRecord.decode(self._mirror.items[self.keys.node("poller", name)].value)

    async def node(self, name: str, containing: bytes = b"") -> NodeRecord:
        """Wait until the poller's entry contains this text, and return its record."""

        def record() -> NodeRecord | None:
            kv = self._mirror.items.get(self.keys.node("poller", name))
            return NodeRecord.decode(kv.value) if kv is not None and containing in kv.value else None

        node = await eventually(record)
        assert node is not None
        return node

    async def released(self, topic: str) -> None:
        await eventually(lambda: self.keys.owner(topic) not in self._mirror.items)

    async def keys_left(self) -> list[str]:
        """Return all keys of the namespace but the demand."""
        return [kv.key for kv in (await self._etcd.range(self.keys.namespace)).kvs if "/demand/" not in kv.key]


@pytest.fixture
async def cluster(etcd_endpoint: str, namespace: str) -> AsyncIterator[Cluster]:
    settings = EtcdSettings(etcd=(etcd_endpoint,), namespace=namespace)
    # A lease that is lost would cancel the runner of all tests: a new database may block the loop for seconds.
    async with Etcd.open(settings) as etcd, Session.open(etcd, 60) as session, asyncio.TaskGroup() as tasks:
        mirror = Mirror(etcd, namespace, lambda events: None)
        running = tasks.create_task(mirror.run())
        yield Cluster(etcd, Keys(namespace), session, mirror)
        running.cancel()


@contextlib.asynccontextmanager
async def poller(settings: PollerSettings) -> AsyncIterator[None]:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(service.run(settings, stop))
        yield
        stop.set()


@pytest.fixture
def settings(etcd_endpoint: str, namespace: str, database: str, tmp_path: Path) -> PollerSettings:
    path = tmp_path / "catalog.toml"
    path.write_text(CATALOG)
    return PollerSettings(
        etcd=(etcd_endpoint,),
        namespace=namespace,
        catalog=path,
        database_url=database,  # type: ignore[arg-type]
        node="poller-1",
        lease_ttl=10,
    )


async def first_update(address: str, topic: str, kind: str) -> feed_pb2.FeedUpdate:
    """Return the first update of this kind: on a busy machine a status may come before the first result."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = feed_pb2_grpc.FeedStub(channel).Subscribe()
        await call.write(feed_pb2.FeedRequest(gateway="gateway-1", attach=[feed_pb2.Attach(topic=topic)]))
        async with asyncio.timeout(20):
            while True:
                message = await call.read()
                assert isinstance(message, feed_pb2.FeedUpdates)
                for update in message.updates:
                    if update.WhichOneof("body") == kind:
                        return update


async def test_a_topic_with_demand_is_owned_and_polled_and_released_after_its_linger(
    cluster: Cluster, settings: PollerSettings
) -> None:
    async with poller(settings):
        await cluster.add_demand("one")
        owner, epoch = await cluster.owner("one")
        assert owner.node == "poller-1"
        update = await first_update(owner.grpc, "one", "snapshot")
        assert (update.topic, update.epoch, update.seq) == ("one", epoch, 1)
        assert update.snapshot.rows == b'{"id":1}'
        await cluster.remove_demand("one")
        await cluster.released("one")


async def test_a_stopped_poller_leaves_no_key(cluster: Cluster, settings: PollerSettings) -> None:
    async with poller(settings):
        await cluster.add_demand("one")
        await cluster.owner("one")
    assert await cluster.keys_left() == []


async def test_a_stopped_poller_hands_its_topics_over(cluster: Cluster, settings: PollerSettings) -> None:
    other = settings.model_copy(update={"node": "poller-2"})
    async with poller(other):
        async with poller(settings):
            for name in ("poller-1", "poller-2"):
                await cluster.ready(name)
            await cluster.add_demand("one")
            await cluster.owner("one")
        owner, _ = await cluster.owner("one")
        assert owner.node == "poller-2"
        assert "/nodes/poller/poller-1" not in "".join(await cluster.keys_left())


async def test_without_a_database_a_topic_is_owned_and_stale(cluster: Cluster, settings: PollerSettings) -> None:
    nowhere = PollerSettings(**{**settings.model_dump(), "database_url": "postgresql://a:secret@127.0.0.1:1/x"})
    async with poller(nowhere):
        await cluster.add_demand("one")
        owner, _ = await cluster.owner("one")
        update = await first_update(owner.grpc, "one", "status")
        assert (update.seq, update.status.state) == (0, "stale")
        assert "127.0.0.1" not in update.status.reason


async def test_notifications_are_listened_to_on_a_database_of_their_own(
    cluster: Cluster, settings: PollerSettings, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    settings.catalog.write_text(CATALOG.replace('"50ms"', '"30s"\nlisten = "ones"'))
    with new_database(postgres_server) as other, psycopg.connect(other, autocommit=True) as connection:
        with pytest.raises(SettingsInvalid, match="POLLCAST_LISTEN_URL"):
            await service.run(settings.model_copy(update={"listen_url": SecretStr("nonsense")}), asyncio.Event())
        async with poller(settings.model_copy(update={"listen_url": SecretStr(other)})):
            await cluster.add_demand("one")
            await cluster.owner("one")
            await eventually(lambda: sessions(connection))
        await eventually(lambda: not sessions(connection))


async def test_health_readiness_and_metrics_are_served(cluster: Cluster, settings: PollerSettings) -> None:
    async with poller(settings):
        node = await cluster.ready("poller-1")
        for path in ("healthz", "readyz"):
            body = await asyncio.to_thread(get, f"http://{node.http}/{path}")
            assert orjson.loads(body)["status"] in ("ok", "ready")
        assert b"pollcast_poller_statements_total" in await asyncio.to_thread(get, f"http://{node.http}/metrics")


async def test_a_poller_is_ready_only_once_it_has_read_the_cluster(
    cluster: Cluster, settings: PollerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed, page = asyncio.Event(), Etcd.page

    async def late(etcd: Etcd, prefix: str, *rest: Any) -> Page:
        if prefix == cluster.keys.demands():
            await listed.wait()
        return await page(etcd, prefix, *rest)

    monkeypatch.setattr(Etcd, "page", late)
    async with poller(settings):
        node = await cluster.node("poller-1")
        assert node.state == "starting"
        with pytest.raises(urllib.error.HTTPError) as refused:
            await asyncio.to_thread(get, f"http://{node.http}/readyz")
        assert refused.value.code == 503
        assert orjson.loads(refused.value.read())["status"] == "starting"
        listed.set()
        await cluster.ready("poller-1")
        assert orjson.loads(await asyncio.to_thread(get, f"http://{node.http}/readyz"))["status"] == "ready"


async def test_a_poller_that_never_reached_its_database_is_not_ready_and_leaves_topics_to_one_that_has(
    cluster: Cluster, settings: PollerSettings, database: str
) -> None:
    name = f"missing_{uuid.uuid4().hex[:12]}"
    missing = {"database_url": SecretStr(f"{database.rpartition('/')[0]}/{name}"), "node": "poller-2"}
    async with poller(settings):
        await cluster.ready("poller-1")
        async with poller(settings.model_copy(update=missing)):
            node = await cluster.node("poller-2")
            words = f'FATAL: database "{name}" does not exist'
            said = await eventually(lambda: _unready(f"http://{node.http}/readyz", words))
            assert (said["status"], said["topics"]) == ("starting", 0)
            assert (await cluster.node("poller-2")).state == "starting"
            for topic in TOPICS:
                await cluster.add_demand(topic)
            assert {(await cluster.owner(topic))[0].node for topic in TOPICS} == {"poller-1"}
            with psycopg.connect(database, autocommit=True) as connection:
                connection.execute(f"create database {name} strategy = wal_log".encode())
                try:
                    await cluster.ready("poller-2")
                    body = await asyncio.to_thread(get, f"http://{node.http}/readyz")
                    assert orjson.loads(body)["database"] == "ok"
                finally:
                    connection.execute(f"drop database {name} with (force)".encode())


async def test_a_second_poller_of_a_name_leaves_the_keys_of_the_first_alone(
    cluster: Cluster, settings: PollerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = asyncio.Event()

    class Observed(Predecessor):
        def observe(self, sent: float, received: float, left: float) -> None:
            super().observe(sent, received, left)
            if sent - self.began > 0.5:
                waited.set()

        @functools.cached_property
        def began(self) -> float:
            return asyncio.get_running_loop().time()

    monkeypatch.setattr(registry, "Predecessor", Observed)
    key = cluster.keys.catalogue("poller", "poller-1")
    await cluster.put(cluster.keys.node("poller", "poller-1"), node_record("poller", "poller-1", None, None).encode())
    await cluster.put(key, CatalogueRecord("0123456789ab", {}).encode())
    before = await cluster.revision(key)
    async with poller(settings):
        await waited.wait()
        assert await cluster.revision(key) == before


async def test_a_poller_without_a_database_owns_topics_until_another_one_is_ready(
    cluster: Cluster, settings: PollerSettings, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "LAST_SECONDS", 0.1)
    monkeypatch.setattr(rebalancing, "YIELD_SECONDS", 0.1)
    missing = {"database_url": SecretStr(f"{database.rpartition('/')[0]}/missing"), "node": "poller-2"}
    for topic in TOPICS:
        await cluster.add_demand(topic)
    async with poller(settings.model_copy(update=missing)):
        assert {(await cluster.owner(topic))[0].node for topic in TOPICS} == {"poller-2"}
        assert (await cluster.node("poller-2")).state == "starting"
        async with poller(settings):
            await cluster.owned_by("poller-1", TOPICS)
            assert (await cluster.node("poller-2")).state == "starting"


async def test_topics_of_a_source_that_one_poller_does_not_reach_go_to_one_that_does_and_no_others(
    cluster: Cluster, settings: PollerSettings, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "LAST_SECONDS", 0.1)
    monkeypatch.setattr(rebalancing, "YIELD_SECONDS", 0.1)
    monkeypatch.setattr(rebalancing, "SETTLE_SECONDS", 60.0)  # nothing is evened out
    monkeypatch.setattr(connections, "REACH_SECONDS", 0.5)
    monkeypatch.setattr(variables, "LOOK_SECONDS", 0.1)
    url = tmp_path / "url"
    url.write_text("postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("SHOP_URL", database)
    monkeypatch.setenv("UNREACHED_URL_FILE", str(url))
    catalog = CATALOG + f'[queries.there]\nsource = "shop"\n{CATALOG.rpartition("numbered]")[2]}'
    other = tmp_path / "other.toml"
    for file, variable in ((settings.catalog, "SHOP_URL"), (other, "UNREACHED_URL")):
        file.write_text(f'{catalog}[sources.shop]\nurl_env = "{variable}"\n')
    there = [topic.replace("numbered", "there") for topic in TOPICS]
    for topic in (*TOPICS, *there):
        await cluster.add_demand(topic)
    async with poller(settings.model_copy(update={"node": "poller-2", "catalog": other})):
        await cluster.owned_by("poller-2", [*TOPICS, *there])
        node = await cluster.node("poller-2", b'"unreached":["shop"]')
        assert node.state == "ready"
        said = orjson.loads(await asyncio.to_thread(get, f"http://{node.http}/readyz"))
        assert (said["sources"]["default"], said["unreached"]) == ("ok", ["shop"])
        async with poller(settings):
            await cluster.owned_by("poller-1", there)
            await cluster.owned_by("poller-2", TOPICS)
            assert b"unreached" not in (await cluster.ready("poller-1")).encode()
            url.write_text(database)
            await eventually(lambda: cluster.entry("poller-2").unreached == ())
            await cluster.owned_by("poller-1", there)


async def _unready(url: str, words: str) -> dict[str, Any] | None:
    """Return the body of a refusal by a node in sync with etcd whose reason contains these words."""
    try:
        await asyncio.to_thread(get, url)
    except urllib.error.HTTPError as refused:
        said: dict[str, Any] = orjson.loads(refused.read())
        told = words in said["reason"] and words in said["database"]
        return said if refused.code == 503 and said["etcd"] == "ok" and told else None
    return None


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=20) as response:
        body: bytes = response.read()
    return body


async def test_an_invalid_database_url_is_refused_without_being_repeated(settings: PollerSettings) -> None:
    wrong = PollerSettings(**{**settings.model_dump(), "database_url": "postgresql://user:secret@host:port:5/db?x"})
    with pytest.raises(SettingsInvalid) as refused:
        await service.run(wrong, asyncio.Event())
    assert "POLLCAST_DATABASE_URL" in refused.value.detail
    assert "secret" not in refused.value.detail
