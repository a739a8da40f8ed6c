"""Reads the metrics of a node of the cluster, as Prometheus does: `GET /metrics` (CONTRACT.md §5)."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import closing

from pollcast.services.process.settings import HostPort, split_host_port

ANSWER_SECONDS = 1.0


async def read_totals(address: HostPort, names: Collection[str]) -> dict[str, float] | None:
    """The samples of these names, each summed over its labels; None when the node did not answer."""
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
    """Of Prometheus' text format. Pure; a name that is not there is 0."""
    sums = dict.fromkeys(names, 0.0)
    for line in text.splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        if name in sums:
            sums[name] += float(line.rpartition(" ")[2])
    return sums
