"""The cluster that `pollcast up` starts: its options, its processes, and its description in `cluster.json`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pollcast.services.coordination.keys import NodeRecord
from pollcast.services.local.child import Child
from pollcast.services.local.etcd_server import EtcdServer
from pollcast.services.local.mariadb_server import MariadbServer
from pollcast.services.local.postgres_server import PostgresServer
from pollcast.services.process.settings import EtcdSettings

ETCD_PORT = 2379
"""Client port that the embedded etcd takes where it is free: the default of every command's `--etcd`."""


Demo: TypeAlias = Literal["postgresql", "mysql"]
"""The kinds of databases that a demo shows. That of MySQL has PostgreSQL's beside it."""


@dataclass(frozen=True)
class Options:
    """The flags of `pollcast up`, with their defaults (docs/reference/commands.md#up)."""

    gateways: int = 2
    pollers: int = 2
    coordinators: int = 1
    etcd_nodes: int = 1
    etcd: str | None = None  # endpoints of a running etcd, comma-separated
    database_url: str | None = None
    catalog: Path | None = None
    data_dir: Path = Path(".pollcast")
    port: int = 4000  # the first gateway's; 0: any
    demo: Demo | None = "postgresql"
    lease_ttl: int | None = None  # seconds

    @property
    def with_demo(self) -> bool:
        """Whether to load the demo: never into a database that the user brought."""
        return self.demo is not None and self.database_url is None


@dataclass
class LocalCluster:
    """The processes of a cluster on this machine that have been started so far."""

    options: Options
    data_dir: Path
    settings: EtcdSettings
    database_url: str = ""
    database_problem: str | None = None
    """Reason why the given database could not be reached at the start."""
    etcd: EtcdServer | None = None
    postgres: PostgresServer | None = None
    mariadb: MariadbServer | None = None
    workload: Child | None = None
    services: dict[str, Child] = field(default_factory=dict)
    records: dict[str, NodeRecord] = field(default_factory=dict)

    def log(self, name: str) -> Path:
        """Return the log file of the process called `name`."""
        return self.data_dir / "logs" / f"{name}.log"

    def children(self) -> Iterator[Child]:
        """Yield every process whose unexpected end is reported."""
        if self.etcd is not None:
            yield from self.etcd.members
        if self.postgres is not None:
            yield self.postgres.process
        if self.mariadb is not None:
            yield self.mariadb.process
        yield from self.services.values()

    def description(self) -> dict[str, Any]:
        """Return the content of cluster.json (docs/reference/commands.md#cluster-json)."""
        nodes: list[dict[str, Any]] = [
            {"role": r.role, "name": r.node, "pid": r.pid, "http": r.http, "grpc": r.grpc}
            for r in self.records.values()
        ]
        for member in self.etcd.members if self.etcd is not None else ():
            nodes.append(
                {"role": "etcd", "name": member.name, "pid": member.pid, "http": member.client, "grpc": member.client}
            )
        return {
            "etcd": list(self.settings.etcd),
            "namespace": self.settings.namespace,
            "database_url": self.database_url,
            "nodes": nodes,
        }
