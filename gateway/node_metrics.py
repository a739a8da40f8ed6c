"""Reading the metrics of another node of the cluster, as Prometheus does: `GET /metrics`."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import closing

from pollcast.services.process.settings import HostPort, split_host_port

ANSWER_SECONDS = 1.0
"""Maximum time for a node to answer, in seconds."""


async def read_totals(address: HostPort, names: Collection[str]) -> dict[str, float] | None:
    """Return the metrics of these names, each summed over its labels; None when the node does not answer in time."""
    host, port = split_host_port(address)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            with closing(writer):
                writer.write(f"GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n".encode())
                answer = await reader.read()
    except (OSError, TimeoutError):
        return None
    head, _, body = answer.partition(b"\r\n\r\n")
    return sum_samples(body.decode(errors="replace"), names) if b" 200 " in head.split(b"\r\n", 1)[0] else None


def sum_samples(text: str, names: Collection[str]) -> dict[str, float]:
    """Sum each name's samples in a text of Prometheus' format over their labels; a name without samples is 0. Pure."""
    sums = dict.fromkeys(names, 0.0)
    for line in text.splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        if name in sums:
            sums[name] += float(line.rpartition(" ")[2])
    return sums
