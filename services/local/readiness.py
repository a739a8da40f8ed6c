"""The wait of `pollcast up` until every service is ready."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Any

import orjson
import psutil
from rich.console import Console
from rich.status import Status

from pollcast.services.catalogue.sources import NOT_REACHED_YET
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import Keys, NodeRecord
from pollcast.services.errors import EtcdError
from pollcast.services.local.child import ProcessFailed
from pollcast.services.local.cluster import LocalCluster
from pollcast.services.process.addresses import HostPort

READY_SECONDS = 60.0
"""Time that all services together have to become ready."""

CHECK_SECONDS = 0.1
"""Interval between two checks of the processes."""

ATTEMPT_SECONDS = 5.0
"""Time that a poller has for its first attempts to connect to sources, from its first answer on, in seconds."""


class Stopped(Exception):
    """The stop was requested before the cluster was ready."""


async def until_ready(cluster: LocalCluster, etcd: Etcd, stop: asyncio.Event, status: Status, console: Console) -> None:
    """Wait until every service is ready by its key in etcd and by its `/readyz`.

    Pollers that reach none of their databases are not ready before they do: their keys in etcd suffice. One that has
    reached some of them has ATTEMPT_SECONDS to try the others. What was not reached is printed, with the reasons.
    """
    unreached: dict[str, str] = {}  # source → why a poller does not reach it
    keys = Keys(cluster.settings.namespace)
    deadline = time.monotonic() + READY_SECONDS
    ready: dict[str, NodeRecord] = {}
    answered_at: dict[str, float] = {}  # poller → time of its first answer, in seconds
    while len(ready) < len(cluster.services):
        missing = [name for name in cluster.services if name not in ready]
        status.update(f"Starting {', '.join(missing)} …")
        for child in cluster.children():
            if child.status is not None:
                raise ProcessFailed(f"{child.name} {child.how_it_ended()}\n{child.tail()}\nIts log: {child.log}")
        if time.monotonic() > deadline:
            tails = "\n".join(f"{name}:\n{cluster.services[name].tail()}" for name in missing)
            raise ProcessFailed(f"not ready after {READY_SECONDS:g} s: {', '.join(missing)}\n{tails}")
        for record in await _records(etcd, keys):
            name = service_of(record, {name: child.pid for name, child in cluster.services.items()})
            if name is None or name in ready:
                continue
            is_ready, body = (False, {}) if record.http is None else await _readiness(record.http)
            registered_only = record.role == "poller" and (cluster.database_problem is not None or _reaches_none(body))
            now = time.monotonic()
            if _has_not_tried_all(body) and now < answered_at.setdefault(name, now) + ATTEMPT_SECONDS:
                continue
            if registered_only or (record.state == "ready" and is_ready):
                ready[name] = record
                unreached |= _unreached(body)
        await pause(stop, CHECK_SECONDS)
        raise_if_stopped(stop)
    cluster.records = {name: ready[name] for name in cluster.services}
    for source, problem in sorted(unreached.items()):
        console.print(f"The source {source} can't be reached: {problem}", markup=False, style="yellow")
    if unreached:
        console.print("Topics are stale until their source can; the pollers keep trying.", markup=False)


def service_of(record: NodeRecord, pids: Mapping[str, int]) -> str | None:
    """Return the name of the service that a node is, or is a worker of (POLLCAST_WORKERS); None for another node.

    `pids` are the process ids of the services.
    """
    if pids.get(record.node) == record.pid:
        return record.node
    name = record.node.rpartition(".")[0]
    with contextlib.suppress(psutil.Error):
        if name in pids and psutil.Process(record.pid).ppid() == pids[name]:
            return name
    return None


async def _records(etcd: Etcd, keys: Keys) -> list[NodeRecord]:
    try:
        listing = await etcd.range(keys.nodes())
    except EtcdError:
        return []  # the caller tries again until its deadline
    records = []
    for kv in listing.kvs:
        with contextlib.suppress(ValueError):  # a key that Pollcast did not write
            records.append(NodeRecord.decode(kv.value))
    return records


async def _readiness(http: HostPort) -> tuple[bool, dict[str, Any]]:
    """Return whether `GET /readyz` at this address is answered with 200, and its body, empty without an answer."""
    host, _, port = http.rpartition(":")
    try:
        async with asyncio.timeout(2.0):
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            try:
                writer.write(f"GET /readyz HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n".encode())
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
                return head.split()[1:2] == [b"200"], orjson.loads(body)
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return False, {}


def _unreached(body: Mapping[str, Any]) -> dict[str, str]:
    """Return the sources that a poller with this body of `/readyz` has tried to reach in vain, with the reasons."""
    states = body.get("sources") or {}
    return {source: state for source, state in states.items() if state not in ("ok", NOT_REACHED_YET)}


def _has_not_tried_all(body: Mapping[str, Any]) -> bool:
    """Return whether a poller with this body of `/readyz` has not tried to reach each of its sources yet."""
    return NOT_REACHED_YET in (body.get("sources") or {}).values()


def _reaches_none(body: Mapping[str, Any]) -> bool:
    """Return whether a poller with this body of `/readyz` has tried to reach each of its sources in vain."""
    states = body.get("sources") or {}
    return bool(states) and _unreached(body).keys() == states.keys()


def raise_if_stopped(stop: asyncio.Event) -> None:
    """Raise Stopped when the stop was requested."""
    if stop.is_set():
        raise Stopped


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait for `seconds`, or until `stop` is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
