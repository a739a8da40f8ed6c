"""The commands `pollcast nodes` and `pollcast topics`: the present state of the cluster, as a table or as JSON.

Nodes are read from etcd, and the databases of pollers come from a coordinator that answers at once. Topics come from a
coordinator; when none answers they are read from etcd, which has neither their clients nor their states nor their
rates.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from pollcast.services.coordination.keys import Keys, OwnerRecord
from pollcast.services.coordination.reach import NoCoordinator, Refused, etcd_at, read_nodes, some_coordinator
from pollcast.services.errors import EtcdError
from pollcast.services.process.settings import EtcdSettings, ServiceSettings
from pollcast.v1 import cluster_pb2

if TYPE_CHECKING:
    from pollcast.v1.cluster_pb2_grpc import ClusterAsyncStub

PAGE_TOPICS = 2000
"""Number of topics that one call lists."""

COORDINATOR_SECONDS = 2.0
"""Time that a coordinator has to answer before the nodes are shown without their databases, in seconds."""

JsonObject = dict[str, Any]
"""One node or topic, by field name."""

DISPLAYED = ("topic", "owner", "state", "clients", "gateways", "interval_ms", "polls_per_second", "last_polled_at")
"""Fields of a topic that its table shows."""


async def show_nodes(settings: ServiceSettings, *, as_json: bool) -> None:
    """Print the nodes. Raises NoEtcd when etcd is not reached."""
    fields = ("role", "state", "http", "grpc", "pid", "version", "started_at", "catalogue")
    records = await read_nodes(settings)
    shown = [{"name": r.node} | {field: getattr(r, field) for field in fields} for r in records]
    sources = await _reported_sources(settings) if any(r.role == "coordinator" for r in records) else {}
    for row in shown:
        found = sources.get(row["name"])
        row["sources"] = (source_rows(found) if as_json else sources_in_words(found)) if found else None
    _show("nodes", shown, as_json)


def source_rows(sources: Iterable[cluster_pb2.NodeSource]) -> list[JsonObject]:
    """Return a poller's databases as JSON output has them."""
    return [{"name": each.name, "up": each.up, "stretch": each.stretch} for each in sources]


def sources_in_words(sources: Iterable[cluster_pb2.NodeSource]) -> str:
    """Return a poller's databases in a cell of a table: each name, with what is wrong with it."""
    return ",".join(
        each.name + ("" if each.up else ":down") + (f":x{each.stretch:g}" if each.stretch > 1 else "")
        for each in sources
    )


async def _reported_sources(settings: ServiceSettings) -> dict[str, Sequence[cluster_pb2.NodeSource]]:
    """Return what pollers have reported of their databases; nothing when no coordinator answers at once, or when this
    user can't read the files for TLS: the nodes themselves are known without either."""
    with contextlib.suppress(NoCoordinator, Refused, EtcdError, OSError):  # a TimeoutError is an OSError
        async with asyncio.timeout(COORDINATOR_SECONDS), some_coordinator(settings) as coordinator:
            listed = await coordinator.ListNodes(cluster_pb2.ListNodesRequest())
            return {node.name: node.sources for node in listed.nodes if node.role == "poller"}
    return {}


async def show_topics(settings: ServiceSettings, *, query: str, as_json: bool) -> None:
    """Print the topics of `query`, or of all queries when it is empty.

    Raises NoEtcd when etcd is not reached, Refused for an unknown query.
    """
    try:
        async with some_coordinator(settings) as coordinator:
            rows = [topic_row(topic) async for topic in listed_topics(coordinator, query)]
    except NoCoordinator:
        rows = await read_topics(settings, query)
        print("No coordinator answers: these are the topics in etcd.", file=sys.stderr)
    if not as_json:
        rows = [{name: row[name] for name in DISPLAYED} for row in rows]
        for row in rows:
            row["gateways"] = [_counted(gateway) for gateway in row["gateways"]]
    _show("topics", rows, as_json)


async def listed_topics(coordinator: ClusterAsyncStub, query: str = "") -> AsyncIterator[cluster_pb2.TopicInfo]:
    """Yield the topics of `query`, or of all queries when it is empty, page by page."""
    request = cluster_pb2.ListTopicsRequest(query=query, page_size=PAGE_TOPICS)
    while True:
        page = await coordinator.ListTopics(request)
        for topic in page.topics:
            yield topic
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def topic_row(topic: cluster_pb2.TopicInfo) -> JsonObject:
    """Return the topic's fields as JSON output has them; an unknown or absent value is None."""
    loaded = topic.HasField("load")
    return {
        "topic": topic.topic,
        "owner": topic.owner or None,
        "epoch": topic.epoch or None,
        "state": topic.state,
        "clients": topic.clients,
        "gateways": [{"name": gateway.name, "clients": gateway.clients} for gateway in topic.gateways],
        "interval_ms": topic.interval_ms or None,
        "last_polled_at": topic.last_polled_at or None,
        "polls_per_second": round(topic.load.polls_per_second, 2) if loaded else None,
        "changes_per_second": round(topic.load.changes_per_second, 2) if loaded else None,
        "rows": topic.load.rows if loaded else None,
        "poll_ms": round(topic.load.poll_ms, 3) if loaded else None,
    }


async def read_topics(settings: EtcdSettings, query: str = "") -> list[JsonObject]:
    """Return the topics that are in etcd: none for an unknown query. Raises NoEtcd when etcd is not reached."""
    keys = Keys(settings.namespace)
    async with etcd_at(settings) as etcd:
        demands = await etcd.range(keys.demands())
        owners = await etcd.range(keys.owners, demands.revision)
    found: dict[str, JsonObject] = {}
    for kv in demands.kvs:
        if (parsed := keys.parse_demand(kv.key)) is not None:
            topic, gateway = parsed
            found.setdefault(topic, _unknown(topic))["gateways"].append({"name": gateway, "clients": None})
    for kv in owners.kvs:
        with contextlib.suppress(ValueError):  # a key that Pollcast did not write
            if (owned := keys.parse_owner(kv.key)) is not None:
                owner = OwnerRecord.decode(kv.value).node
                found.setdefault(owned, _unknown(owned)).update(owner=owner, epoch=kv.mod_revision)
    return [row for topic, row in sorted(found.items()) if query in ("", topic.partition("?")[0])]


def _unknown(topic: str) -> JsonObject:
    return topic_row(cluster_pb2.TopicInfo()) | {"topic": topic, "state": None, "clients": None}


def _show(what: str, rows: list[JsonObject], as_json: bool) -> None:
    """Print the rows as JSON or as a table. Cells are never cut to the terminal's width: a program may read them."""
    if as_json:
        print(orjson.dumps({what: rows}).decode())
        return
    if not rows:
        print(f"no {what}")
        return
    lines = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _counted(gateway: JsonObject) -> str:
    return str(gateway["name"]) if gateway["clients"] is None else f"{gateway['name']}:{gateway['clients']}"


def _cell(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "-" if value in (None, "") else str(value)
