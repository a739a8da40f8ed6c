"""A cluster of one size on this machine: real etcd, PostgreSQL, coordinator, pollers and gateways, the rest simulated.

`cluster(size)` yields it when all nodes are ready and no topic is wanted. Its counters are those of etcd and of the
services' `/metrics`, and CPU time and memory as the kernel has it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import psutil

from bench import metrics
from bench.processes import Process, module, running, swarm
from bench.stage import is_ready
from pollcast.services.coordination.keys import Keys
from pollcast.services.local import ports
from pollcast.services.local.etcd_server import EtcdServer
from pollcast.services.local.postgres_server import PostgresServer
from pollcast.services.process.settings import Role

CATALOG = """
[queries.item]
sql = "select %(n)s as n"
key = ["n"]
interval = "{interval}"
timeout = "5s"
linger = "1s"
params.n = "int"
"""

LISTENS = ("nodes", "pins", "owners", "demand", "presence")
"""The prefixes that simulated nodes listen to, each of them those of its role."""

WATCHED = {"poller": {"nodes", "pins", "owners", "demand"}, "gateway": {"nodes", "owners", "demand", "presence"}}
"""The prefixes that a real node watches, by role (docs/design/scale.md#what-each-service-watches)."""


@dataclass(frozen=True)
class Size:
    """The size of a cluster. Of its pollers and gateways, some are real; `served` topics have a client on each real
    gateway, and the simulated gateways share the demand for all others."""

    topics: int
    pollers: int
    gateways: int
    real_pollers: int = 1
    real_gateways: int = 1
    served: int = 1000
    kind: str = "light"
    processes: int = 1
    """Number of processes that the simulated pollers share."""
    ttl: int = 5
    interval: str = "30s"
    listens: tuple[str, ...] = LISTENS
    fsync: bool = False
    stacks: bool = False
    """Whether to note the stacks of stops, which costs each process about 0.7 % of a core."""

    def pollers_named(self, *, real: bool) -> list[str]:
        """Return the names of the real or of the simulated pollers."""
        names = [f"poller-{n}" for n in range(1, self.pollers + 1)]
        return names[: self.real_pollers] if real else names[self.real_pollers :]

    def gateways_named(self, *, real: bool) -> list[str]:
        """Return the names of the real or of the simulated gateways."""
        names = [f"gateway-{n}" for n in range(1, self.gateways + 1)]
        return names[: self.real_gateways] if real else names[self.real_gateways :]

    @property
    def names(self) -> list[str]:
        """All topics."""
        return [f"item?n={n}" for n in range(self.topics)]

    def served_by(self, gateway: int) -> list[str]:
        """Return the topics with clients on the real gateway of this number."""
        each = min(self.served, self.topics // self.gateways)
        return self.names[gateway * each : (gateway + 1) * each]

    @property
    def others(self) -> list[str]:
        """The topics that the simulated gateways demand."""
        each = min(self.served, self.topics // self.gateways)
        return self.names[self.real_gateways * each :]


@dataclass
class Service:
    """A real service: its process, the port of its HTTP server, and its role."""

    name: str
    role: str
    process: Process
    port: int

    def metrics(self) -> dict[str, float]:
        """Read `/metrics`."""
        return metrics.read(f"127.0.0.1:{self.port}")


@dataclass
class Stops:
    """The stops of a service's loop: their number by the upper bound of their length, and the longest of the last
    minute, of CPU time if that was less. Lengths are in seconds."""

    counts: dict[float, float]
    longest: float

    @staticmethod
    def of(values: Mapping[str, float]) -> Stops:
        """Return what the metrics of a service say (docs/reference/metrics.md#event-loop)."""
        counts: dict[float, float] = {}
        for name, value in values.items():
            if match := re.fullmatch(r'pollcast_loop_stop_seconds_bucket\{le="(.*)"\}', name):
                counts[float(match[1])] = value
        longest = ("pollcast_loop_longest_stop_seconds", "pollcast_loop_longest_work_seconds")
        return Stops(counts, min(values[name] for name in longest))

    def since(self, before: Stops) -> float:
        """Return an upper bound of the longest stop since then, which is exact if that was the longest of the last
        minute; 0.01 when there was none of more than 10 ms."""
        # The counts are cumulative: those of longer stops only are what one bound has more than the next lower one.
        lower, longest = 0.0, 0.01
        for bound in sorted(self.counts):
            grown = self.counts[bound] - before.counts.get(bound, 0.0)
            longest, lower = (bound, grown) if grown > lower else (longest, lower)
        return min(longest, self.longest)


@dataclass
class Usage:
    """The resources used up to a moment: CPU seconds by name of the process, and etcd's counters."""

    cpu: dict[str, float]
    etcd: dict[str, float]


def _calls(what: str, service: str, method: str, kind: str) -> str:
    return (
        f'grpc_server_{what}_total{{grpc_method="{method}",grpc_service="etcdserverpb.{service}",grpc_type="{kind}"}}'
    )


ETCD_COUNTERS = {
    "proposals": "etcd_server_proposals_committed_total",
    "events": "etcd_debugging_mvcc_events_total",
    "puts": "etcd_mvcc_put_total",
    "deletes": "etcd_mvcc_delete_total",
    "ranges": "etcd_mvcc_range_total",
    "sent": "etcd_network_client_grpc_sent_bytes_total",
    "received": "etcd_network_client_grpc_received_bytes_total",
    "watch requests": _calls("msg_received", "Watch", "Watch", "bidi_stream"),
    "watch answers": _calls("msg_sent", "Watch", "Watch", "bidi_stream"),
    "logins": _calls("started", "Auth", "Authenticate", "unary"),
}
"""etcd's counters by short names."""


@dataclass
class Cluster:
    """A cluster that runs."""

    size: Size
    folder: Path
    keys: Keys
    etcd: EtcdServer
    services: dict[str, Service]
    pollers: list[Process]
    gateways: list[Process]
    swarms: list[Process]
    environment: Mapping[str, str]
    stack: contextlib.AsyncExitStack
    empty: dict[str, int] = field(default_factory=dict)
    """RSS of each process before there was a topic, in bytes."""

    # --- what is there

    def etcd_metrics(self) -> dict[str, float]:
        """Read etcd's counters by the names of ETCD_COUNTERS, and the number of watchers."""
        found = metrics.read(self.etcd.endpoint)
        counters = {short: found.get(name, 0.0) for short, name in ETCD_COUNTERS.items()}
        return counters | {"watchers": found.get("etcd_debugging_mvcc_watcher_total", 0.0)}

    def count(self, prefix: str) -> int:
        """Return the number of keys below a prefix, counted by etcd."""
        return int(self._range(prefix, count_only=True).get("count", 0))

    def is_registered(self, role: Role, name: str) -> bool:
        """Return whether the node has an entry."""
        return bool(self._ask(self.keys.node(role, name), None).get("kvs"))

    def ready_nodes(self) -> int:
        """Return the number of entries of nodes that are ready."""
        found = self._range(self.keys.nodes()).get("kvs", [])
        return sum(b'"ready"' in base64.b64decode(kv["value"]) for kv in found)

    def address_of(self, role: Role, name: str) -> str:
        """Return the address of the node's gRPC server."""
        (kv,) = self._ask(self.keys.node(role, name), None)["kvs"]
        return str(json.loads(base64.b64decode(kv["value"]))["grpc"])

    def owned_by(self) -> dict[str, int]:
        """Return the number of topics of each poller, as etcd has it."""
        counts: dict[str, int] = {}
        for kv in self._range(self.keys.owners).get("kvs", []):
            node = json.loads(base64.b64decode(kv["value"]))["node"]
            counts[node] = counts.get(node, 0) + 1
        return counts

    def _range(self, prefix: str, **more: Any) -> dict[str, Any]:
        return self._ask(prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1), **more)

    def _ask(self, key: str, end: str | None, **more: Any) -> dict[str, Any]:
        body = {name: base64.b64encode(k.encode()).decode() for name, k in (("key", key), ("range_end", end)) if k}
        request = urllib.request.Request(
            f"http://{self.etcd.endpoint}/v3/kv/range", orjson.dumps(body | more), method="POST"
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: dict[str, Any] = orjson.loads(answer.read())
            return found

    def usage(self) -> Usage:
        """Return the CPU time of every process and the counters of etcd as of now."""
        cpu = {name: service.process.cpu for name, service in self.services.items()}
        times = psutil.Process(self.etcd.members[0].pid).cpu_times()
        cpu["etcd"] = times.user + times.system
        cpu["simulated"] = sum(process.cpu for process in (*self.pollers, *self.gateways))
        return Usage(cpu, self.etcd_metrics())

    def rss(self) -> dict[str, int]:
        """Return the resident memory of each real service and of etcd, in bytes."""
        found = {name: service.process.rss for name, service in self.services.items()}
        return found | {"etcd": int(psutil.Process(self.etcd.members[0].pid).memory_info().rss)}

    def stops(self) -> dict[str, Stops]:
        """Return the stops of the loop of each real service so far."""
        return {name: Stops.of(service.metrics()) for name, service in self.services.items()}

    async def sessions_lost(self) -> int:
        """Return the number of sessions that any node has lost."""
        lost = sum(int(service.metrics().get("pollcast_session_lost_total", 0)) for service in self.services.values())
        for process in (*self.pollers, *self.gateways):
            lost += (await process.ask(do="state"))["lost"]
        return lost

    # --- starting

    async def start(self, role: str, name: str) -> Service:
        """Start a real service and return when its HTTP server answers."""
        port = ports.free_port()
        environment = {
            **self.environment,
            "POLLCAST_NODE": name,
            "POLLCAST_HTTP": f"127.0.0.1:{port}",
        }
        command = self._module(name, "pollcast", role)
        log = self.folder / f"{name}.log"
        process = await self.stack.enter_async_context(running(*command, environment=environment, errors=log))
        self.services[name] = Service(name, role, process, port)
        return self.services[name]

    async def simulate(self, role: str, names: Sequence[str], number: int, **more: Any) -> Process:
        """Start a process of simulated nodes."""
        listens = [prefix for prefix in self.size.listens if prefix in WATCHED[role]]
        order = {
            "etcd": self.etcd.endpoints,
            "namespace": self.keys.namespace,
            "ttl": self.size.ttl,
            "catalog": self.environment["POLLCAST_CATALOG"],
            "names": names,
        }
        name = f"simulated-{role}s-{number}"
        command = self._module(name, f"bench.scale.{role}s", orjson.dumps(order | more).decode())
        log = self.folder / f"{name}.log"
        process = await self.stack.enter_async_context(running(*command, errors=log))
        (self.pollers if role == "poller" else self.gateways).append(process)
        await process.ask(do="start", listens=[f"{self.keys.namespace}/{listen}/" for listen in listens])
        return process

    def _module(self, name: str, *command: str) -> tuple[str, ...]:
        """Return the command that runs a module as the process of this name, which writes the stacks of its stops to a
        file if they are to be noted."""
        watch = ("bench.scale.loop_watch", str(self.folder / f"{name}.stops")) if self.size.stacks else ()
        return module(*watch, *command)

    async def until(self, condition: Callable[[], bool], seconds: float, what: str, pause: float = 0.1) -> float:
        """Wait until the condition holds, and return how many seconds that took. Raises TimeoutError, saying what."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not await asyncio.to_thread(condition):
            if loop.time() - began > seconds:
                raise TimeoutError(f"not within {seconds:g} s: {what}")
            await asyncio.sleep(pause)
        return loop.time() - began


@contextlib.asynccontextmanager
async def cluster(size: Size, folder: Path | None = None, database_url: str | None = None) -> AsyncIterator[Cluster]:
    """Run a cluster of this size until all its nodes are ready, on a PostgreSQL of its own unless a URL is given."""
    async with contextlib.AsyncExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pollcast-scale-")))
        file = folder / "catalog.toml"
        file.write_text(CATALOG.format(interval=size.interval))
        etcd = stack.enter_context(EtcdServer.start(folder / "etcd", fsync=size.fsync))
        if database_url is None:
            database_url = stack.enter_context(PostgresServer.start(folder / "pg")).url
        environment = {
            "POLLCAST_ETCD": etcd.endpoint,
            "POLLCAST_NAMESPACE": "/scale",
            "POLLCAST_CATALOG": str(file),
            "POLLCAST_DATABASE_URL": database_url,
            "POLLCAST_LEASE_TTL": str(size.ttl),
        }
        services = await stack.enter_async_context(contextlib.AsyncExitStack())
        cluster = Cluster(size, folder, Keys("/scale"), etcd, {}, [], [], [], environment, services)
        await cluster.start("coordinator", "coordinator-1")
        for name in size.gateways_named(real=True):
            await cluster.start("gateway", name)
            cluster.swarms.append(await services.enter_async_context(swarm()))
        for name in size.pollers_named(real=True):
            await cluster.start("poller", name)
        simulated = size.pollers_named(real=False)
        processes = min(size.processes, len(simulated))
        for number in range(processes):
            share = {"share": (number, processes), "kind": size.kind}
            await cluster.simulate("poller", simulated[number::processes], number, **share)
        if names := size.gateways_named(real=False):
            await cluster.simulate("gateway", names, 0, real=size.pollers_named(real=True))
        nodes = 1 + size.pollers + size.gateways
        await cluster.until(lambda: cluster.ready_nodes() == nodes, 120.0, f"{nodes} nodes are ready")
        for service in cluster.services.values():
            await cluster.until(lambda port=service.port: is_ready(port), 30.0, "HTTP")  # type: ignore[misc]
        await asyncio.sleep(1.0)
        cluster.empty = cluster.rss()
        yield cluster
