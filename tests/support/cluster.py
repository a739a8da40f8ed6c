"""A whole cluster for tests: `pollcast up` as a user starts it, and its services as processes that can be broken."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

START_SECONDS = 60.0
STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Node:
    role: str
    name: str
    pid: int
    http: str | None
    grpc: str | None

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)


@dataclass(frozen=True)
class Cluster:
    """What `cluster.json` says, with the process of `pollcast up` itself."""

    process: subprocess.Popen[bytes]
    data_dir: Path
    info: dict[str, Any]

    @property
    def etcd(self) -> list[str]:
        endpoints: list[str] = self.info["etcd"]
        return endpoints

    @property
    def namespace(self) -> str:
        return str(self.info["namespace"])

    @property
    def database_url(self) -> str:
        return str(self.info["database_url"])

    def nodes(self, role: str) -> list[Node]:
        return [Node(**node) for node in self.info["nodes"] if node["role"] == role]

    def gateway(self, number: int = 0) -> str:
        """`host:port` of a gateway's HTTP."""
        address = self.nodes("gateway")[number].http
        assert address is not None
        return address


@contextlib.contextmanager
def guarded_cluster(folder: Path, catalog: str, database_url: str, secret: str) -> Iterator[Cluster]:
    """One gateway that asks for tokens, and one poller."""
    file = folder / "catalog.toml"
    file.write_text(catalog)
    flags = ["--catalog", str(file), "--no-demo", "--gateways", "1", "--pollers", "1", "--database-url", database_url]
    with cluster(folder / "data", *flags, environment={"POLLCAST_AUTH_SECRET": secret}) as up:
        yield up


@contextlib.contextmanager
def cluster(data_dir: Path, *flags: str, environment: dict[str, str] | None = None) -> Iterator[Cluster]:
    """`pollcast up --port 0` with these flags, ready to be used; stopped with SIGINT on leaving."""
    command = [sys.executable, "-m", "pollcast", "up", "--port", "0", "--data-dir", str(data_dir), *flags]
    with (data_dir.parent / f"{data_dir.name}.log").open("wb+") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | (environment or {}),
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
