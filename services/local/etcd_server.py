"""The embedded etcd: a cluster of one or three members, run as child processes on this machine.

It is for development and tests only: the etcd is 3.5.1, and it trusts everyone who connects from this machine. A member
keeps its data directory and ports between runs, listens on 127.0.0.1 (or ::1) only, is healthy when `start` returns,
and ends with this process (services/local/child.py). Tests break it with `kill`, `freeze`, `thaw` and `restart`.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from pollcast.services.local.child import Child, ProcessFailed
from pollcast.services.local.embedded import START_SECONDS, program
from pollcast.services.local.ports import PORT_ATTEMPTS, at_loopback, free_port, is_free, listens
from pollcast.services.process.addresses import HostPort, split_host_port

STOP_SECONDS = 0.5
"""Time that an etcd member has to end by itself before it is killed."""

FLAGS = [
    "--heartbeat-interval=50",
    "--election-timeout=500",
    "--auto-compaction-mode=periodic",
    "--auto-compaction-retention=10m",
    "--quota-backend-bytes=1073741824",
    "--log-level=warn",
]


class EtcdMember(Child):
    """One etcd process of a cluster."""

    def __init__(
        self,
        name: str,
        client: HostPort,
        peer: HostPort,
        cluster: str,
        folder: Path,
        logs: Path,
        flags: Sequence[str],
    ) -> None:
        """Describe the member.

        `cluster` is the --initial-cluster of all members, which etcd reads on the first start. Of a flag that occurs
        twice, etcd takes the later one, so `flags` may replace any of FLAGS.
        """
        self.client = client
        self.data_dir = folder / name
        command = [
            program("etcd"),
            f"--name={name}",
            f"--data-dir={self.data_dir}",
            f"--listen-client-urls=http://{client}",
            f"--advertise-client-urls=http://{client}",
            f"--listen-peer-urls=http://{peer}",
            f"--initial-advertise-peer-urls=http://{peer}",
            f"--initial-cluster={cluster}",
            *FLAGS,
            *flags,
        ]
        super().__init__(name, command, logs / f"{name}.log", env=_environment())

    def healthy(self) -> bool:
        """Return whether the member answers and its cluster has a leader."""
        host, port = split_host_port(self.client)
        if not self.running or not listens(self.pid, port):
            return False  # whoever answers is another process
        connection = http.client.HTTPConnection(host, port, timeout=1.0)
        try:
            connection.request("GET", "/health")
            answer: dict[str, str] = json.loads(connection.getresponse().read())
            return answer.get("health") == "true"
        except (OSError, http.client.HTTPException, ValueError):
            return False
        finally:
            connection.close()

    def restart(self) -> None:
        """Kill the member if it runs, and start it on its data and ports.

        Return when it is healthy, which takes a quorum.
        """
        self.kill()
        self.start()
        self.until(self.healthy, START_SECONDS)


class EtcdServer:
    """An etcd cluster of one or three members, `etcd-1` …; a context manager that stops it on leaving."""

    def __init__(self, members: list[EtcdMember]) -> None:
        self.members = members

    @classmethod
    def start(
        cls,
        data_dir: Path,
        nodes: int = 1,
        *,
        wanted_port: int | None = None,
        fsync: bool = True,
        log_dir: Path | None = None,
        flags: Sequence[str] = (),
    ) -> EtcdServer:
        """Start the cluster on `data_dir` and return it when every member is healthy.

        The members keep their data and ports from one run to the next; the first takes `wanted_port` if it is free.
        A port that another process takes in the meantime is replaced by another one. With `fsync=False` writes are
        faster, and a crash of the machine loses data. Without `log_dir` the logs are written beside the data. `flags`
        are further flags of etcd. Raises ProcessFailed when a member does not start, or when another process has taken
        the peer port of one of three members that have data: they would not find each other.
        """
        folder = data_dir.resolve() / f"of-{nodes}"
        folder.mkdir(parents=True, exist_ok=True)
        names = [f"etcd-{i}" for i in range(1, nodes + 1)]
        file = folder / "ports.json"
        flags = [*flags, *([] if fsync else ["--unsafe-no-fsync"])]
        attempts = PORT_ATTEMPTS
        while True:
            has_data = file.exists()
            ports = _etcd_ports(file, names, wanted_port)
            cluster = ",".join(f"{name}=http://{at_loopback(peer)}" for name, (_, peer) in ports.items())
            addresses = {name: [at_loopback(port) for port in both] for name, both in ports.items()}
            server = cls(
                [
                    EtcdMember(name, client, peer, cluster, folder, log_dir or folder, flags)
                    for name, (client, peer) in addresses.items()
                ]
            )
            attempts -= 1
            try:
                server.restart()
            except BaseException as error:
                server.kill()
                taken = any(member.lost_its_port() for member in server.members)
                if not (isinstance(error, ProcessFailed) and taken and attempts):
                    raise
            else:
                return server
            if not has_data:  # members that have begun know each other's ports
                file.unlink()
                for member in server.members:
                    shutil.rmtree(member.data_dir, ignore_errors=True)

    @property
    def endpoints(self) -> tuple[HostPort, ...]:
        """The members' client addresses."""
        return tuple(member.client for member in self.members)

    @property
    def endpoint(self) -> HostPort:
        """The first member's client address."""
        return self.members[0].client

    def etcdctl(self, *arguments: str) -> str:
        """Run etcdctl against all members and return its output. Raises ProcessFailed with its error message."""
        command = [program("etcdctl"), f"--endpoints={','.join(self.endpoints)}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())  # noqa: S603
        if done.returncode != 0:
            raise ProcessFailed(f"etcdctl {arguments[0]}: {done.stderr.strip()}")
        return done.stdout

    def freeze(self) -> None:
        """Freeze all members."""
        for member in self.members:
            member.freeze()

    def thaw(self) -> None:
        """Let all frozen members go on."""
        for member in self.members:
            member.thaw()

    def kill(self) -> None:
        """Kill all members."""
        for member in self.members:
            member.kill()

    def restart(self) -> None:
        """Kill the members that run, and start all. Return when all are healthy."""
        self.kill()
        for member in self.members:
            member.start()
        for member in self.members:
            member.until(member.healthy, START_SECONDS)

    def stop(self) -> None:
        """Stop all members; kill those that take longer than `STOP_SECONDS`.

        A leader that stops looks for a successor for seconds. Killing it is safe: its log has every write.
        """
        for member in self.members:
            member.ask_to_stop()
        for member in self.members:
            member.stop(STOP_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def _environment() -> dict[str, str]:
    """Return the environment of etcd's programs: what the shell's ETCD_* and ETCDCTL_* say is about other clusters."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ETCD")}


def _etcd_ports(file: Path, names: list[str], wanted: int | None) -> dict[str, tuple[int, int]]:
    """Return each member's client and peer port by its name: those of the last run where they are free."""
    kept: dict[str, tuple[int, int]] = json.loads(file.read_text()) if file.exists() else {}
    ports: dict[str, tuple[int, int]] = {}
    for name in names:
        client, peer = kept.get(name, (None, None))
        if len(names) > 1 and peer is not None and not is_free(peer):
            raise ProcessFailed(
                f"{name} can't listen on its port {peer}, which another process has taken; "
                f"end that process, or remove {file.parent} to start with empty data"
            )
        prefer = wanted if client is None and name == names[0] else client
        ports[name] = free_port(wanted=prefer), free_port(wanted=peer)
    file.write_text(json.dumps(ports))
    return ports
