"""`pollcast nodes` and `pollcast topics`: what etcd says now, as tables or as JSON. One look, then it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson

from coordinator.etcd import Etcd, Kv
from coordinator.keys import Keys, NodeRecord, OwnerRecord
from services.settings import EtcdSettings

R = TypeVar("R")


@dataclass
class TopicEntry:
    """A topic with demand, an owner, or both."""

    topic: str
    owner: str = ""
    epoch: int = 0
    gateways: list[str] = field(default_factory=list)


async def read_nodes(settings: EtcdSettings) -> list[NodeRecord]:
    """Every node that holds a lease, sorted by role and name. EtcdError when etcd isn't reached."""
    async with Etcd.open(settings) as etcd:
        listing = await etcd.range(Keys(settings.namespace).nodes())
    records = (_decoded(kv, NodeRecord.decode) for kv in listing.kvs)
    return sorted((r for r in records if r is not None), key=lambda r: (r.role, r.node))


async def read_topics(settings: EtcdSettings, query: str = "") -> list[TopicEntry]:
    """Every topic (of one query), sorted. EtcdError when etcd isn't reached."""
    keys = Keys(settings.namespace)
    async with Etcd.open(settings) as etcd:
        demands = await etcd.range(keys.demands())
        owners = await etcd.range(keys.owners, demands.revision)
    entries: dict[str, TopicEntry] = {}
    for kv in demands.kvs:
        if (parsed := keys.parse_demand(kv.key)) is not None:
            topic, gateway = parsed
            entries.setdefault(topic, TopicEntry(topic)).gateways.append(gateway)
    for kv in owners.kvs:
        record = _decoded(kv, OwnerRecord.decode)
        if (owned := keys.parse_owner(kv.key)) is not None and record is not None:
            entry = entries.setdefault(owned, TopicEntry(owned))
            entry.owner, entry.epoch = record.node, kv.mod_revision
    wanted = (e for e in entries.values() if not query or e.topic.partition("?")[0] == query)
    return sorted(wanted, key=lambda e: e.topic)


async def show_nodes(settings: EtcdSettings, *, as_json: bool) -> None:
    records = await read_nodes(settings)
    shown = [
        {
            "name": r.node,
            "role": r.role,
            "state": r.state,
            "http": r.http,
            "grpc": r.grpc,
            "pid": r.pid,
            "version": r.version,
            "started_at": r.started_at,
        }
        for r in records
    ]
    _show("nodes", shown, as_json)


async def show_topics(settings: EtcdSettings, *, query: str, as_json: bool) -> None:
    entries = await read_topics(settings, query)
    shown: list[dict[str, Any]] = [
        {"topic": e.topic, "owner": e.owner, "epoch": e.epoch, "gateways": e.gateways} for e in entries
    ]
    _show("topics", shown, as_json)


def _show(what: str, rows: list[dict[str, Any]], as_json: bool) -> None:
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


def _cell(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "-" if value in (None, "", 0) else str(value)


def _decoded(kv: Kv, decode: Callable[[bytes], R]) -> R | None:
    """None for what somebody else has put there."""
    try:
        return decode(kv.value)
    except ValueError:
        return None
