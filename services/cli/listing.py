"""`pollcast nodes` and `pollcast topics`: the cluster as it is now, as tables or as JSON. One look, then it ends.

Nodes are as etcd has them. Topics are as a coordinator tells them; when none answers, as etcd has them, which knows
neither clients nor states nor polls.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import orjson

from pollcast.services.coordination.keys import Keys, OwnerRecord
from pollcast.services.coordination.reach import NoCoordinator, etcd_at, read_nodes, some_coordinator
from pollcast.services.process.settings import EtcdSettings, ServiceSettings
from pollcast.v1 import cluster_pb2

Row = dict[str, Any]

DISPLAYED = ("topic", "owner", "state", "clients", "gateways", "interval_ms", "polls_per_second", "last_polled_at")
"""Of a topic, in a table."""


async def show_nodes(settings: EtcdSettings, *, as_json: bool) -> None:
    """NoEtcd when etcd isn't reached."""
    fields = ("role", "state", "http", "grpc", "pid", "version", "started_at")
    shown = [{"name": r.node} | {field: getattr(r, field) for field in fields} for r in await read_nodes(settings)]
    _show("nodes", shown, as_json)


async def show_topics(settings: ServiceSettings, *, query: str, as_json: bool) -> None:
    """NoEtcd when etcd isn't reached, Refused for an unknown query."""
    try:
        async with some_coordinator(settings) as coordinator:
            answer = await coordinator.ListTopics(cluster_pb2.ListTopicsRequest(query=query))
            rows = [topic_row(topic) for topic in answer.topics]
    except NoCoordinator:
        rows = await read_topics(settings, query)
        print("No coordinator answers: this is what etcd has.", file=sys.stderr)
    if not as_json:
        rows = [{name: row[name] for name in DISPLAYED} for row in rows]
        for row in rows:
            row["gateways"] = [_counted(gateway) for gateway in row["gateways"]]
    _show("topics", rows, as_json)


def topic_row(topic: cluster_pb2.TopicInfo) -> Row:
    """As scripts get it: what is not known, or is not there, is None."""
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


async def read_topics(settings: EtcdSettings, query: str = "") -> list[Row]:
    """As etcd has them: of a query that does not exist there are none. NoEtcd when etcd isn't reached."""
    keys = Keys(settings.namespace)
    async with etcd_at(settings) as etcd:
        demands = await etcd.range(keys.demands())
        owners = await etcd.range(keys.owners, demands.revision)
    found: dict[str, Row] = {}
    for kv in demands.kvs:
        if (parsed := keys.parse_demand(kv.key)) is not None:
            topic, gateway = parsed
            found.setdefault(topic, _unknown(topic))["gateways"].append({"name": gateway, "clients": None})
    for kv in owners.kvs:
        with contextlib.suppress(ValueError):  # somebody else has put it there
            if (owned := keys.parse_owner(kv.key)) is not None:
                owner = OwnerRecord.decode(kv.value).node
                found.setdefault(owned, _unknown(owned)).update(owner=owner, epoch=kv.mod_revision)
    return [row for topic, row in sorted(found.items()) if query in ("", topic.partition("?")[0])]


def _unknown(topic: str) -> Row:
    return topic_row(cluster_pb2.TopicInfo()) | {"topic": topic, "state": None, "clients": None}


def _show(what: str, rows: list[Row], as_json: bool) -> None:
    """Columns side by side, never cut: they may be read by another program, whatever the terminal's width."""
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


def _counted(gateway: Row) -> str:
    return str(gateway["name"]) if gateway["clients"] is None else f"{gateway['name']}:{gateway['clients']}"


def _cell(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "-" if value in (None, "") else str(value)
