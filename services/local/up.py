"""The command `pollcast up`: a whole cluster on this machine, each service a process of its own.

`run(options, stop)` starts etcd, then PostgreSQL with the demo, then coordinators, pollers and gateways, and waits
until all of them are ready. Then it writes `cluster.json`, and until `stop` is set it reports every process that ends,
of which it restarts none, and what becomes of an edited catalogue. On `stop`, or when a process does not start, it
drains the services and then stops the servers. When it is killed itself, the kernel ends everything it started
(services/process/leash.py). See docs/reference/commands.md#up.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import psycopg
from rich.console import Console
from rich.status import Status

from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.reach import etcd_at
from pollcast.services.errors import PollcastError, Problem, SettingsInvalid
from pollcast.services.local import demo, mysql_demo, ports, welcome
from pollcast.services.local.child import Child
from pollcast.services.local.cluster import ETCD_PORT, LocalCluster, Options
from pollcast.services.local.etcd_server import EtcdServer
from pollcast.services.local.log_reports import LogReader, Reports
from pollcast.services.local.postgres_server import PostgresServer
from pollcast.services.local.readiness import CHECK_SECONDS, Stopped, pause, raise_if_stopped, until_ready
from pollcast.services.local.terminal import open_console
from pollcast.services.process.addresses import HostPort
from pollcast.services.process.database_url import connection_problem
from pollcast.services.process.settings import EtcdSettings, Role, load
from pollcast.services.process.variables import overridden

DRAIN_SECONDS = 15.0
"""Time that all services together have to drain before they are killed."""


class AlreadyUp(PollcastError):
    """Another cluster runs on this data directory."""


async def run(options: Options, stop: asyncio.Event, console: Console | None = None) -> None:
    """Run the cluster until `stop` is set; return when every process has ended.

    Raises PollcastError when the cluster cannot be started.
    """
    console = console or open_console()
    catalog_path, catalog = catalog_of(options)
    if options.port:
        for number in range(options.gateways):
            ports.require_free(options.port + number, f"gateway-{number + 1}")
    data_dir = options.data_dir.resolve()
    with _locked(data_dir), contextlib.suppress(Stopped):
        file = data_dir / "cluster.json"
        file.unlink(missing_ok=True)
        async with _cluster(options, data_dir, catalog_path, catalog, stop, console) as cluster:
            _write(file, cluster.description())
            try:
                welcome.show(console, cluster, catalog)
                await _watch(cluster, stop, console)
            finally:
                file.unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def _cluster(
    options: Options, data_dir: Path, catalog_path: Path, catalog: Catalog, stop: asyncio.Event, console: Console
) -> AsyncIterator[LocalCluster]:
    async with contextlib.AsyncExitStack() as stack:
        with console.status("Starting …") as status:
            cluster = LocalCluster(options, data_dir, await _etcd_settings(options))
            stack.push_async_callback(_stop_all, cluster, console)
            await _start_servers(cluster, catalog, stop, status, console)
            await _start_services(cluster, catalog_path, stop, status, console)
        yield cluster
        console.print("Stopping …")


async def _start_servers(
    cluster: LocalCluster, catalog: Catalog, stop: asyncio.Event, status: Status, console: Console
) -> None:
    options = cluster.options
    logs = cluster.data_dir / "logs"
    logs.mkdir(exist_ok=True)
    for old in logs.glob("*.log"):  # from the previous run
        old.unlink()
    if options.etcd is None:
        status.update("Starting etcd …")
        began = time.monotonic()
        cluster.etcd = await asyncio.to_thread(
            EtcdServer.start, cluster.data_dir / "etcd", options.etcd_nodes, wanted_port=ETCD_PORT, log_dir=logs
        )
        cluster.settings = cluster.settings.model_copy(update={"etcd": cluster.etcd.endpoints})
        # An earlier run that was killed has left keys that no process of this run owns.
        await asyncio.to_thread(cluster.etcd.etcdctl, "del", "--prefix", f"{cluster.settings.namespace}/")
        _done(console, "etcd", began)
    raise_if_stopped(stop)
    if options.database_url is not None:
        cluster.database_url = options.database_url
        status.update("Connecting to the database …")
        cluster.database_problem = await asyncio.to_thread(connection_problem, options.database_url)
        if cluster.database_problem is not None:
            console.print(f"The database can't be reached: {cluster.database_problem}", markup=False, style="yellow")
            console.print("Topics are stale until it can; the pollers keep trying.", markup=False)
        return
    if catalog.polls_default_url:  # else every query is polled at a URL of this process's environment
        await _start_postgres(cluster, stop, status, console)
    if options.demo == "mysql":
        status.update("Starting MariaDB …")
        began = time.monotonic()
        cluster.mariadb = await asyncio.to_thread(
            mysql_demo.start, cluster.data_dir / "mariadb", cluster.log("mariadb")
        )
        _done(console, "MariaDB", began)
    raise_if_stopped(stop)


async def _start_postgres(cluster: LocalCluster, stop: asyncio.Event, status: Status, console: Console) -> None:
    """Start the embedded PostgreSQL, with the demo if that is wanted."""
    status.update("Starting PostgreSQL …")
    began = time.monotonic()
    postgres = await asyncio.to_thread(PostgresServer.start, cluster.data_dir / "postgres", log=cluster.log("postgres"))
    cluster.postgres, cluster.database_url = postgres, postgres.url
    await asyncio.to_thread(demo.enable_statistics, postgres)
    _done(console, "PostgreSQL", began)
    raise_if_stopped(stop)
    if cluster.options.with_demo:
        status.update("Loading the demo …")
        began = time.monotonic()
        log = cluster.log("pgbench")
        if await asyncio.to_thread(demo.load, postgres, log):
            _done(console, "the demo's data", began)
        cluster.workload = demo.workload(postgres, log)
        cluster.workload.start()
        raise_if_stopped(stop)


async def _start_services(
    cluster: LocalCluster, catalog: Path, stop: asyncio.Event, status: Status, console: Console
) -> None:
    options = cluster.options
    began = time.monotonic()
    counts: list[tuple[Role, int]] = [
        ("coordinator", options.coordinators),
        ("poller", options.pollers),
        ("gateway", options.gateways),
    ]
    for role, count in counts:
        for number in range(1, count + 1):
            name = f"{role}-{number}"
            http = ports.at_loopback(options.port + number - 1 if role == "gateway" and options.port else 0)
            environment = environment_of(cluster, catalog, name, http)
            # -P keeps the modules of the current folder out of the way of ours.
            command = [sys.executable, "-P", "-m", "pollcast", role]
            if role == "gateway" and not any(environment.get(f"POLLCAST_ORIGINS{end}") for end in ("", "_FILE")):
                command.append("--local-pages")
            child = Child(name, command, cluster.log(name), env=environment)
            cluster.services[name] = child
            child.start()
    async with Etcd.open(cluster.settings) as etcd:
        await until_ready(cluster, etcd, stop, status, console)
    _done(console, f"{len(cluster.services)} services", began)


async def _watch(cluster: LocalCluster, stop: asyncio.Event, console: Console) -> None:
    """Report each process that ends, once, and what the services log about the catalogue and failing queries.

    Also restart the demo's clients when their hour is over.
    """
    reported: set[str] = set()
    reports, logs = Reports(), LogReader(child.log for child in cluster.services.values())
    while not stop.is_set():
        for text in filter(None, map(reports.of, logs.entries())):
            console.print(text, markup=False)
        for child in cluster.children():
            if child.status is not None and child.name not in reported:
                reported.add(child.name)
                console.print(f"{child.name} (pid {child.pid}) {child.how_it_ended()} and is not restarted.")
                console.print(f"The end of its log, {child.log}:\n{child.tail()}", markup=False)
        workload, postgres = cluster.workload, cluster.postgres
        if workload is not None and postgres is not None and not workload.running and postgres.process.running:
            with contextlib.suppress(psycopg.Error):  # it takes no connections now: try again at the next check
                await asyncio.to_thread(demo.prune, postgres)
                workload.start()
        await pause(stop, CHECK_SECONDS)


async def _stop_all(cluster: LocalCluster, console: Console) -> None:
    """Stop the services, all at once, and then the servers, which the services need to drain."""
    deadline = time.monotonic() + DRAIN_SECONDS
    for child in cluster.services.values():
        child.ask_to_stop()
    if cluster.workload is not None:
        await asyncio.to_thread(cluster.workload.stop)
    for child in cluster.services.values():
        running = child.running
        ended = await asyncio.to_thread(child.wait, max(0.0, deadline - time.monotonic())) if running else 0
        if ended is None:
            console.print(f"{child.name} (pid {child.pid}) did not end within {DRAIN_SECONDS:g} s and is killed.")
            await asyncio.to_thread(child.kill)
    for server in (cluster.mariadb, cluster.postgres, cluster.etcd):
        if server is not None:
            await asyncio.to_thread(server.stop)


# --- details ------------------------------------------------------------------------------------------------------


def catalog_of(options: Options) -> tuple[Path, Catalog]:
    """Return the catalogue and its path. Raises CatalogInvalid, or SettingsInvalid when no catalogue is named.

    A symbolic link stays one, so that services see it being swapped.
    """
    path = options.catalog
    if path is None:
        if not options.with_demo:
            which = "--no-demo" if options.database_url is None else "--database-url"
            reason = f"is required with {which}: a catalogue to serve (examples/pgbench.toml is an example)"
            raise SettingsInvalid([Problem("pollcast up", "", "--catalog", reason)])
        path = mysql_demo.CATALOG if options.demo == "mysql" else demo.CATALOG
    return path.absolute(), catalogue.load(path)


async def _etcd_settings(options: Options) -> EtcdSettings:
    """Return how to reach etcd. A running etcd must have answered; the endpoints of an embedded one are set later."""
    if options.etcd is None:
        plain = dict.fromkeys(("etcd_ca", "etcd_cert", "etcd_key", "etcd_user", "etcd_password"))
        return load(EtcdSettings).model_copy(update=plain)
    settings = load(EtcdSettings, etcd=options.etcd)
    async with etcd_at(settings) as etcd:
        await etcd.get(f"{settings.namespace}/leader")
    return settings


def environment_of(cluster: LocalCluster, catalog: Path, name: str, http: HostPort) -> Mapping[str, str]:
    """Return the environment of a service: this process's own, so that POLLCAST_AUTH_SECRET and the like reach it, with
    the settings that `pollcast up` decides."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("POLLCAST_ADVERTISE")}
    if cluster.etcd is not None:  # the embedded etcd has neither TLS nor users
        environment = {k: v for k, v in environment.items() if not k.startswith("POLLCAST_ETCD_")}
    if cluster.postgres is not None:  # the embedded PostgreSQL is the one to listen on
        environment = {k: v for k, v in environment.items() if not k.startswith("POLLCAST_LISTEN_URL")}
    own = {
        "POLLCAST_ETCD": ",".join(cluster.settings.etcd),
        "POLLCAST_NAMESPACE": cluster.settings.namespace,
        "POLLCAST_CATALOG": str(catalog),
        "POLLCAST_NODE": name,
        "POLLCAST_HTTP": http,
        "POLLCAST_GRPC": ports.at_loopback(0),
    }
    if cluster.database_url:
        own["POLLCAST_DATABASE_URL"] = cluster.database_url
    delay = "POLLCAST_DRAIN_DELAY"
    if not environment.keys() & {delay, f"{delay}_FILE"}:
        own[delay] = "0"  # all gateways end at once: a load balancer has nowhere else to send clients
    if cluster.mariadb is not None:
        own[mysql_demo.URL_VARIABLE] = cluster.mariadb.url_of(mysql_demo.DATABASE)
    if cluster.options.lease_ttl is not None:
        own["POLLCAST_LEASE_TTL"] = str(cluster.options.lease_ttl)
    return overridden(environment, own)


@contextlib.contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """Hold the data directory's lock. Raises AlreadyUp when another process holds it."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            pid = lock.read().strip()
            raise AlreadyUp(
                f"a cluster runs on {data_dir} already (pollcast up, pid {pid}): stop it, or choose another --data-dir"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def _write(file: Path, description: dict[str, Any]) -> None:
    """Write cluster.json atomically. Only its owner may read it: the database's URL may hold a password."""
    whole = file.with_suffix(".json.new")
    whole.unlink(missing_ok=True)
    whole.touch(mode=0o600)
    whole.write_bytes(orjson.dumps(description, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    whole.replace(file)


def _done(console: Console, what: str, began: float) -> None:
    console.print(f"  started {what} in {time.monotonic() - began:.1f} s", markup=False)
