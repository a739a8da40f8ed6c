"""Clients of all protocols behind a load balancer, and the effects of a rolling restart on them.

`python -m bench.rolling.crowd` runs a crowd in a process of its own: it executes orders from its standard input, one
JSON object a line, and answers each with a line.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import uvloop

from bench.clients.calls import GrpcClient
from bench.clients.events import EventSourceClient
from bench.clients.phoenix import PhoenixClient
from bench.clients.polling import JsonClient
from bench.clients.record import LiveClient
from bench.processes import raise_file_limit

AT_ONCE = 100
"""Number of clients that are started at a time, a tenth of a second apart."""


@dataclass
class Report:
    """The effects of a restart on the clients of one protocol, in seconds and numbers of clients."""

    clients: int = 0
    ended: list[str] = field(default_factory=list)  # why clients have ended for good
    violations: list[str] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)
    reconnects: list[float] = field(default_factory=list)  # time of each
    offline: list[float] = field(default_factory=list)  # the longest time without a connection, of each client
    silences: list[float] = field(default_factory=list)  # the longest time without a result, of each client

    def busiest(self, seconds: float = 1.0) -> int:
        """Return the largest number of reconnects within this time."""
        times = sorted(self.reconnects)
        first = most = 0
        for last, at in enumerate(times):
            while at - times[first] > seconds:
                first += 1
            most = max(most, last - first + 1)
        return most


class Crowd:
    """Clients that are all of one process."""

    def __init__(self, http: tuple[str, int], grpc: tuple[str, int]) -> None:
        self.clients: list[LiveClient] = []
        self._http = http
        self._grpc = grpc

    async def join(self, counts: Mapping[str, int], topics: Sequence[str]) -> None:
        """Start clients by the number of each protocol; each follows one of the topics."""
        kinds = [kind for kind, count in counts.items() for _ in range(count)]
        for number, kind in enumerate(kinds):
            topic = topics[number % len(topics)]
            address = self._grpc if kind == "gRPC" else self._http
            client = make(kind, address, topic)
            self.clients.append(client)
            client.start()
            if number % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0.1)

    def waiting(self) -> int:
        """Return the number of clients that have no result yet."""
        return sum(shown.result is None for client in self.clients for shown in client.shown.values())

    def begin(self) -> None:
        """Count what happens from now on."""
        for client in self.clients:
            for shown in client.shown.values():
                shown.forget_silence()
            record = client.record
            del record.connects[:-1], record.lost[:]
            record.refusals.clear()

    def wrong(self, rows: Mapping[str, list[dict[str, Any]]]) -> int:
        """Return the number of clients that show other rows of a topic than these."""
        return sum(shown.rows != rows[topic] for client in self.clients for topic, shown in client.shown.items())

    def reports(self) -> dict[str, Report]:
        """Return what has happened since `begin`, by protocol."""
        reports: dict[str, Report] = {}
        for client in self.clients:
            record = client.record
            report = reports.setdefault(record.kind, Report())
            report.clients += 1
            report.ended += [record.ended] if record.ended else []
            report.violations += record.violations
            report.refusals += record.refusals
            report.reconnects += record.connects[1:]
            report.offline.append(offline(record.connects[1:], record.lost))
            report.silences.append(max((shown.longest for shown in client.shown.values()), default=0.0))
        return reports

    def stop(self) -> None:
        """Stop all clients."""
        for client in self.clients:
            client.stop(abruptly=True)


def make(kind: str, address: tuple[str, int], topic: str) -> LiveClient:
    """Return a client of a protocol."""
    if kind == "WebSocket":
        return PhoenixClient(lambda: address, [topic])
    if kind == "SSE":
        return EventSourceClient(lambda: address, topic)
    return JsonClient(lambda: address, topic) if kind == "JSON" else GrpcClient(lambda: address, topic)


def offline(connects: Sequence[float], lost: Sequence[float]) -> float:
    """Return the longest time from the loss of a connection to the next connection; 0 without a loss."""
    ends = [next((at for at in connects if at >= gone), time.monotonic()) - gone for gone in lost]
    return max(ends, default=0.0)


async def main() -> None:
    """Execute orders until the standard input ends."""
    reader = asyncio.StreamReader(limit=16 * 1024 * 1024)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    crowd: Crowd | None = None
    while line := await reader.readline():
        order = orjson.loads(line)
        answer: dict[str, Any] = {}
        if order["do"] == "join":
            crowd = Crowd(tuple(order["http"]), tuple(order["grpc"]))
            await crowd.join(order["counts"], order["topics"])
        assert crowd is not None
        match order["do"]:
            case "waiting":
                answer = {"clients": crowd.waiting()}
            case "begin":
                crowd.begin()
            case "wrong":
                answer = {"clients": crowd.wrong(order["rows"])}
            case "reports":
                answer = {kind: vars(report) for kind, report in crowd.reports().items()}
        sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    os.environ["GRPC_VERBOSITY"] = "ERROR"
    raise_file_limit()
    uvloop.run(main())
