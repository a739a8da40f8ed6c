"""Reading the metrics of another node of the cluster, as Prometheus does: `GET /metrics`."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import closing

from pollcast.services.process.addresses import HostPort, split_host_port

ANSWER_SECONDS = 1.0
"""Maximum time for a node to answer, in seconds."""


async def read_totals(address: HostPort, node: str, names: Collection[str]) -> dict[str, float] | None:
    """Return a node's metrics of these names, each summed over its labels; None when it does not answer in time.

    The answer may hold the metrics of other nodes as well, each with the label `node`: workers share an address.
    """
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
    return sum_samples(body.decode(errors="replace"), node, names) if b" 200 " in head.split(b"\r\n", 1)[0] else None


def sum_samples(text: str, node: str, names: Collection[str]) -> dict[str, float]:
    """Sum each name's samples in a text of Prometheus' format over their labels; a name without samples is 0. Pure.

    Samples with the label `node` of another node do not count.
    """
    sums = dict.fromkeys(names, 0.0)
    for line in text.splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        if name in sums and not ('{node="' in line and f'{{node="{node}"' not in line):
            sums[name] += float(line.rpartition(" ")[2])
    return sums
