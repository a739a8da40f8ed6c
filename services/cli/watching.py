"""The command `pollcast watch`: a topic in the terminal, from the gRPC service LiveQuery of a gateway.

`watch` takes a gateway from etcd unless one is given, prints its events, and continues with another gateway, from the
version it has, when that one goes away. It ends with an error that is not transient, or by Ctrl-C. `LiveRows` is the
pure core: it applies snapshots and deltas (docs/reference/channels.md#delta).
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import orjson
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pollcast.services.coordination.reach import Refused, read_nodes
from pollcast.services.errors import PollcastError
from pollcast.services.process.addresses import HostPort, endpoint_of
from pollcast.services.process.settings import ServiceSettings
from pollcast.services.row_keys import Number, parsed, spelled
from pollcast.services.serving import rpc
from pollcast.services.serving.snapshots import whole
from pollcast.v1 import live_pb2, live_pb2_grpc

RETRY_SECONDS = 0.5

HIGHLIGHT_SECONDS = 1.0
"""Time for which a changed row is highlighted."""

REFRESH_PER_SECOND = 8

TRANSIENT = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN}
)


class NoGateway(PollcastError):
    """No gateway is registered in etcd: is the cluster up? (`pollcast nodes` lists its nodes.)"""


RowKey = str
"""A row's key columns as a JSON array, or its index in a result without a key."""

Cells = dict[str, Any]


@dataclass
class LiveRows:
    """A client's copy of a result. Numbers are kept as PostgreSQL wrote them."""

    key: list[str] = field(default_factory=list)
    rows: list[tuple[RowKey, Cells]] = field(default_factory=list)
    version: str = ""
    polled_at: str = ""
    state: str = "live"
    reason: str = ""
    changed_at: dict[RowKey, float] = field(default_factory=dict)  # seconds, on the caller's clock

    def take(self, response: live_pb2.WatchResponse, now: float) -> None:
        """Apply one event, received at `now` on the caller's clock."""
        match response.WhichOneof("event"):
            case "snapshot":
                self._snapshot(response, now)
            case "delta":
                self._delta(response, now)
            case "status":
                self.state, self.reason = response.status.state, response.status.reason

    def _snapshot(self, response: live_pb2.WatchResponse, now: float) -> None:
        snapshot = response.snapshot
        before = dict(self.rows)
        first = not self.version
        self.key = list(snapshot.key)
        self.rows = [self._row(row, at) for at, row in enumerate(snapshot.rows)]
        self.version, self.polled_at = snapshot.version, snapshot.polled_at
        self.changed_at = {} if first else {k: now for k, cells in self.rows if before.get(k) != cells}

    def _delta(self, response: live_pb2.WatchResponse, now: float) -> None:
        delta = response.delta
        upserts = [(upsert.at, *self._row(upsert.row, upsert.at)) for upsert in delta.upserts]
        removed = {spelled(parsed(key)) for key in delta.deletes} | {key for _, key, _ in upserts}
        self.rows = [row for row in self.rows if row[0] not in removed]
        for at, key, cells in upserts:
            self.rows.insert(at, (key, cells))
            self.changed_at[key] = now
        self.version, self.polled_at = delta.version, delta.polled_at

    def _row(self, row: bytes, at: int) -> tuple[RowKey, Cells]:
        """Return the row with its key; without key columns its index identifies it."""
        cells: Cells = parsed(row)
        return (spelled([cells.get(name) for name in self.key]) if self.key else str(at)), cells


async def watch(
    topic: str, settings: ServiceSettings, *, gateway: HostPort | None, token: str | None, as_json: bool
) -> None:
    """Print the topic's events until cancelled.

    Raises EtcdError, NoGateway or Refused when it cannot start or continue.
    """
    rows = LiveRows()
    live = None
    if sys.stdout.isatty() and not as_json:
        live = Live(
            console=Console(highlight=False),
            refresh_per_second=REFRESH_PER_SECOND,
            transient=True,
            get_renderable=lambda: _render(topic, rows, time.monotonic()),
        )
    with live or nullcontext():
        async for response in _responses(topic, rows, settings, gateway, token):
            rows.take(response, time.monotonic())
            if live is not None:
                live.transient = False  # keep the last drawing on the screen at the end
            else:
                text = orjson.dumps(event(response)).decode() if as_json else "\n".join(plain(response))
                print(text, flush=True)


async def _responses(
    topic: str, rows: LiveRows, settings: ServiceSettings, gateway: HostPort | None, token: str | None
) -> AsyncIterator[live_pb2.WatchResponse]:
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    failed: HostPort | None = None
    while True:
        address = endpoint_of(gateway) if gateway else await _some_gateway(settings, failed)
        request = live_pb2.WatchRequest(topic=topic, since=rows.version)
        async with rpc.channel(address, settings) as channel:
            try:
                call = live_pb2_grpc.LiveQueryStub(channel).Watch(request, metadata=metadata)
                async for response in whole(call):
                    yield response
            except grpc.aio.AioRpcError as error:
                if error.code() not in TRANSIENT or (gateway and not rows.version):
                    raise Refused(f"{address}: {error.details()}") from None
                failed = address
                rows.state, rows.reason = "stale", f"{address} is not reached, trying again"
        await asyncio.sleep(RETRY_SECONDS)


async def _some_gateway(settings: ServiceSettings, failed: HostPort | None) -> HostPort:
    """Return a gateway that is ready, preferably not the one that failed. Raises NoGateway when there is none."""
    records = [r for r in await read_nodes(settings) if r.role == "gateway" and r.state == "ready"]
    addresses = [r.grpc for r in records if r.grpc]
    if not addresses:
        raise NoGateway
    return random.choice([a for a in addresses if a != failed] or addresses)


def event(response: live_pb2.WatchResponse) -> dict[str, Any]:
    """Return the event as JSON output has it: its name as `event`, and the payload of docs/reference/channels.md.

    Rows and row keys are orjson.Fragment.
    """
    name = response.WhichOneof("event")
    if name == "snapshot":
        s = response.snapshot
        rows = [orjson.Fragment(row) for row in s.rows]
        return {"event": name, "version": s.version, "polled_at": s.polled_at, "key": list(s.key), "rows": rows}
    if name == "delta":
        d = response.delta
        deletes = [orjson.Fragment(key) for key in d.deletes]
        upserts = [{"at": u.at, "row": orjson.Fragment(u.row)} for u in d.upserts]
        head = {"event": name, "version": d.version, "base": d.base, "polled_at": d.polled_at}
        return {**head, "deletes": deletes, "upserts": upserts}
    status = response.status
    reason = status.reason if status.HasField("reason") else None
    return {"event": name, "state": status.state, "reason": reason, "since": status.since}


def plain(response: live_pb2.WatchResponse) -> Iterator[str]:
    """Yield the lines of an event as plain output has them: `+ <index> <row>` for an upsert, `- <key>` for a delete."""
    match response.WhichOneof("event"):
        case "snapshot":
            yield f"snapshot {response.snapshot.version} {response.snapshot.polled_at}"
            yield from (f"+ {at} {row.decode()}" for at, row in enumerate(response.snapshot.rows))
        case "delta":
            yield f"delta {response.delta.version} {response.delta.polled_at}"
            yield from (f"- {key.decode()}" for key in response.delta.deletes)
            yield from (f"+ {upsert.at} {upsert.row.decode()}" for upsert in response.delta.upserts)
        case "status":
            yield f"status {response.status.state} {response.status.reason}".rstrip()


def _render(topic: str, rows: LiveRows, now: float) -> Group:
    table = Table(expand=False)
    columns = list(rows.rows[0][1]) if rows.rows else rows.key
    for name in columns:
        table.add_column(name, style="bold" if name in rows.key else "")
    for key, cells in rows.rows:
        highlighted = now - rows.changed_at.get(key, -HIGHLIGHT_SECONDS) < HIGHLIGHT_SECONDS
        table.add_row(*(_cell(cells.get(name)) for name in columns), style="black on green" if highlighted else "")
    state = Text(rows.state, style={"live": "green", "stale": "yellow"}.get(rows.state, "red"))
    head = Text.assemble((topic, "bold"), "  ", state, f"  {rows.reason or rows.polled_at}")
    return Group(head, table) if rows.version else Group(head, Text("waiting for the first result …"))


def _cell(value: object) -> Text:
    if value is None:
        return Text("null", style="dim")
    # A JSON string may hold a surrogate that stands alone, which no terminal can show.
    return Text(_shown(value).encode(errors="replace").decode())


def _shown(value: object, inside: bool = False) -> str:
    """Return the text of a value, with its numbers as they came; `inside` an array or object strings have quotes."""
    if isinstance(value, list):
        return f"[{', '.join(_shown(each, True) for each in value)}]"
    if isinstance(value, dict):
        members = (f"{json.dumps(name, ensure_ascii=False)}: {_shown(each, True)}" for name, each in value.items())
        return f"{{{', '.join(members)}}}"
    if isinstance(value, Number) or (isinstance(value, str) and not inside):
        return value
    return json.dumps(value, ensure_ascii=False)
