"""Closing every client of a gateway: when it drains, and when etcd has lost its data."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

from pollcast.gateway.channels import Socket
from pollcast.gateway.close_codes import SERVICE_RESTART
from pollcast.gateway.hub import Hub
from pollcast.gateway.presence import Presences
from pollcast.gateway.presence_list import HOLD_SECONDS
from pollcast.gateway.sockets import Sockets
from pollcast.services.process import logs

log = logs.get_logger("gateway")

DRAIN_SECONDS = 3.0
"""Time over which a draining gateway spreads the closing of its sockets and streams, in seconds."""

DRAIN_STEPS = 100
"""Number of portions in which a draining gateway closes its sockets."""

GONE_SECONDS = 2.0
"""Maximum time that clients may take to answer the close of their sockets, in seconds."""


async def drain(hub: Hub, sockets: Sockets, presences: Presences) -> None:
    """Close every client, and wait for a moment until the members among them are seen on other gateways."""
    presences.end_watches()
    await _close_all(hub, sockets)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(HOLD_SECONDS):  # their clients are on their way to other gateways
            await presences.nobody_departing()


def start_afresh(hub: Hub, sockets: Sockets) -> None:
    """Close all sockets and forget all topics: etcd has lost its data, and versions of the old one mean nothing.

    docs/reference/etcd.md#lost-data
    """
    log.warning("etcd is another cluster: closing all sockets", sockets=len(sockets))
    for socket in list(sockets):
        socket.wire.close(SERVICE_RESTART, "coordination starts afresh")
    hub.reset()


def _closing(socket: Socket) -> Callable[[], None]:
    return lambda: socket.wire.close(SERVICE_RESTART, "this gateway is shutting down")


async def _close_all(hub: Hub, sockets: Sockets) -> None:
    """Close sockets and end followers in portions, then wait until the sockets are gone."""
    closes = [_closing(socket) for socket in sockets] + [follower.end for follower in hub.followers()]
    random.shuffle(closes)
    batch = max(1, len(closes) // DRAIN_STEPS)
    for start in range(0, len(closes), batch):
        for close in closes[start : start + batch]:
            close()
        await asyncio.sleep(DRAIN_SECONDS / DRAIN_STEPS)
    try:
        async with asyncio.timeout(GONE_SECONDS):
            await sockets.all_closed()
    except TimeoutError:
        for socket in list(sockets):
            socket.wire.abort(SERVICE_RESTART, "this gateway is shutting down")
