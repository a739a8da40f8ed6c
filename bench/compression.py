"""Benchmark of compression: bytes saved and CPU spent, once for all clients and, for comparison, once per client."""

from __future__ import annotations

import time
import zlib

from bench import table
from bench.fanout import gateway_cost
from bench.stage import noise, rows
from pollcast.gateway import phoenix
from pollcast.gateway.outbound_frames import Framed

CLIENTS = 1_000
ROUNDS = 200


async def run() -> None:
    """Print the size and cost of compressed messages, and the cost of fan-out with and without compression."""
    lines: list[tuple[object, ...]] = []
    for name, payload in (
        ("delta of 5 rows", _payload(5, 180)),
        ("snapshot of 100 rows", _payload(100, 200)),
        ("snapshot of 1,000 rows", _payload(1_000, 200)),
        ("20 KB of hexadecimal digits", phoenix.push(b'"live:q"', b"snapshot", noise(20_000)[0][1])),
    ):
        small = len(Framed(payload).ready(True))
        lines.append((name, len(payload), small, f"{1 - small / len(payload):.0%}", _microseconds(payload)))
    table.show("One message", ("message", "bytes", "compressed", "saved", "µs to compress"), lines)
    plain, size = await gateway_cost(CLIENTS, 1)
    packed, packed_size = await gateway_cost(CLIENTS, 1, deflate=True)
    each = _cost_per_client()
    table.show(
        f"Fan-out to {CLIENTS:,} clients: CPU-seconds per million messages",
        ("how", "bytes", "CPU-seconds"),
        [
            ("uncompressed", size, plain),
            ("compressed once for all", packed_size, packed),
            ("compressed for each, with its context: zlib alone", packed_size, each),
        ],
    )


def _payload(count: int, size: int, stamp: int = 0) -> bytes:
    """Return a snapshot message of `count` rows of `size` bytes, which vary as an application's rows do."""
    body = b",".join(row for _, row in rows(count, size, stamp))
    return phoenix.push(b'"live:bench"', b"snapshot", b'{"version":"1-1","rows":[%b]}' % body)


def _microseconds(payload: bytes) -> float:
    """Return the CPU time of compressing this message once, in microseconds."""
    began = time.process_time()
    for _ in range(ROUNDS):
        Framed(payload).ready(True)
    return (time.process_time() - began) / ROUNDS * 1e6


def _cost_per_client() -> float:
    """Return the CPU-seconds of compressing a million messages for single clients, as uvicorn does by default."""
    encoder = zlib.compressobj(wbits=-12, memLevel=5)
    payloads = [_payload(5, 180, stamp) for stamp in range(ROUNDS)]
    began = time.process_time()
    for payload in payloads:
        encoder.compress(payload)
        encoder.flush(zlib.Z_SYNC_FLUSH)
    return (time.process_time() - began) / ROUNDS * 1e6
