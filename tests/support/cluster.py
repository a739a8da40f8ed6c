"""Whole clusters for tests: `pollcast up` as a user starts it, with its services as processes that a test may break."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import psycopg

from pollcast.services.local.postgres_server import PostgresServer
from pollcast.services.process.leash import leash_command
from tests.support.databases import new_database
from tests.support.tokens import SECRET

START_SECONDS = 60.0
STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Node:
    """A process of the cluster, as `cluster.json` lists it. `http` and `grpc` are addresses, `host:port`."""

    role: str
    name: str
    pid: int
    http: str | None
    grpc: str | None

    def kill(self) -> None:
        """End the process with SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)

    def freeze(self) -> None:
        """Stop the process with SIGSTOP: its connections stay open, and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the process continue after `freeze`."""
        os.kill(self.pid, signal.SIGCONT)

    def terminate(self) -> None:
        """Ask the process to end with SIGTERM."""
        os.kill(self.pid, signal.SIGTERM)


@dataclass(frozen=True)
class Cluster:
    """A running cluster: the process of `pollcast up`, its data folder and the content of its `cluster.json`."""

    process: subprocess.Popen[bytes]
    data_dir: Path
    info: dict[str, Any]

    @property
    def etcd(self) -> list[str]:
        """The addresses of etcd's members, `host:port`."""
        endpoints: list[str] = self.info["etcd"]
        return endpoints

    @property
    def namespace(self) -> str:
        """The prefix of the cluster's keys in etcd."""
        return str(self.info["namespace"])

    @property
    def database_url(self) -> str:
        """The URL of the database that is polled."""
        return str(self.info["database_url"])

    def nodes(self, role: str) -> list[Node]:
        """Return the processes of a role, which may be `etcd` too."""
        return [Node(**node) for node in self.info["nodes"] if node["role"] == role]

    def gateway(self, number: int = 0) -> str:
        """Return the HTTP address of a gateway, as `host:port`."""
        address = self.nodes("gateway")[number].http
        assert address is not None
        return address

    def grpc(self, role: str, number: int = 0) -> str:
        """Return the gRPC address of a service, as `host:port`."""
        address = self.nodes(role)[number].grpc
        assert address is not None
        return address


@dataclass(frozen=True)
class Served:
    """The cluster that a test module needs, from its constant `SERVED`; the fixtures `running` and `guarded` start it.

    `catalog` is the catalogue's text, `tables` are SQL statements that create what its queries read, `flags` and
    `environment` are for `pollcast up`.
    """

    catalog: str
    tables: Sequence[str] = ()
    flags: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def guarded(self) -> Served:
        """Return the cluster with the same catalogue, on tables that exist, whose one gateway requires tokens."""
        return Served(
            self.catalog,
            flags=("--gateways", "1", "--pollers", "1"),
            environment={"POLLCAST_AUTH_SECRET": SECRET},
        )

    @contextlib.contextmanager
    def start(self, folder: Path, database_url: str) -> Iterator[Cluster]:
        """Create the tables in this database and run the cluster on it, in a folder that exists."""
        with psycopg.connect(database_url, autocommit=True) as database:
            for statement in self.tables:
                database.execute(statement.encode())
        file = folder / "catalog.toml"
        file.write_text(self.catalog)
        flags = ("--catalog", str(file), "--database-url", database_url, *self.flags)
        with cluster(folder / "data", *flags, environment=self.environment) as up:
            yield up

    @contextlib.contextmanager
    def start_for_folder(self, session_folder: Path, name: str, server: PostgresServer) -> Iterator[Cluster]:
        """Run the cluster for all modules of the test folder of this name, with an etcd and a database of its own."""
        with (
            new_database(server) as url,
            lasting_folder(session_folder, name) as folder,
            self.start(folder, url) as up,
        ):
            yield up


@contextlib.contextmanager
def lasting_folder(session_folder: Path, name: str) -> Iterator[Path]:
    """Make a folder for a fixture of the scope `package` or `session`, and remove it on leaving.

    Folders of `tmp_path_factory` are removed with the module in which they were made.
    """
    folder = session_folder / name
    folder.mkdir()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


STOCK_TABLE = "create table stock (id int primary key, name text, n int, shelf text)"
"""The table that the fixture `stock` fills."""


@contextlib.contextmanager
def cluster(
    data_dir: Path,
    *flags: str,
    environment: Mapping[str, str] | None = None,
    command: Sequence[str] = (sys.executable, "-m", "pollcast"),
    cwd: Path | None = None,
) -> Iterator[Cluster]:
    """Run `pollcast up --port 0` with these flags until it is ready; stop it with SIGINT on leaving, and when this
    process or the thread that calls ends, in whatever way.

    `command` is how to run `pollcast`, by default that of this checkout; `cwd` is the folder to run it in.
    """
    with (data_dir.parent / f"{data_dir.name}.log").open("wb+") as output:
        process = subprocess.Popen(
            [*leash_command(signal.SIGINT), *command, "up", "--port", "0", "--data-dir", str(data_dir), *flags],
            cwd=cwd,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | dict(environment or {}),
            start_new_session=True,
        )
        try:
            file = data_dir / "cluster.json"
            ends = time.monotonic() + START_SECONDS
            while not file.exists():
                if process.poll() is not None or time.monotonic() > ends:
                    output.seek(0)
                    raise AssertionError(f"pollcast up did not start:\n{output.read().decode(errors='replace')}")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.05)
            yield Cluster(process, data_dir, orjson.loads(file.read_bytes()))
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(STOP_SECONDS)
                finally:
                    if process.poll() is None:
                        process.kill()
                        process.wait()
