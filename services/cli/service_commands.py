"""The commands that start something: `pollcast up`, and one for each service."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Annotated, Literal

import typer

from pollcast.services.cli.flags import (
    AdvertiseFlag,
    CatalogFlag,
    EtcdFlag,
    GrpcFlag,
    HttpFlag,
    LeaseTtlFlag,
    NamespaceFlag,
    NodeFlag,
    configure_logs,
    given,
    warn_of_libpq,
)
from pollcast.services.errors import Problem, SettingsInvalid
from pollcast.services.process import lifecycle, logs
from pollcast.services.process.delay import Delay
from pollcast.services.process.settings import CoordinatorSettings, GatewaySettings, PollerSettings, load
from pollcast.services.process.workers import Hangups

app = typer.Typer()


@app.command(epilog="Example:  pollcast up --database-url postgresql://me@db/shop --catalog shop.toml")
def up(
    context: typer.Context,
    gateways: Annotated[int, typer.Option(min=0, help="Number of gateways.")] = 2,
    pollers: Annotated[int, typer.Option(min=0, help="Number of pollers.")] = 2,
    coordinators: Annotated[int, typer.Option(min=0, help="Number of coordinators.")] = 1,
    etcd_nodes: Annotated[int, typer.Option(help="Members of the embedded etcd: 1 or 3.")] = 1,
    etcd: Annotated[str | None, typer.Option(metavar="URLS", help="Use a running etcd instead.")] = None,
    database_url: Annotated[str | None, typer.Option(metavar="URL", help="Use a running PostgreSQL instead.")] = None,
    catalog: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Catalogue to serve.  \\[default: the demo's]")
    ] = None,
    data_dir: Annotated[Path, typer.Option(metavar="DIR", help="Folder for data, logs and cluster.json.")] = Path(
        ".pollcast"
    ),
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the first gateway; the next get P+1, …; 0: any.")
    ] = 4000,
    demo: Annotated[
        Literal["postgresql", "mysql"], typer.Option(help="Database of the demo; mysql: MariaDB beside PostgreSQL.")
    ] = "postgresql",
    no_demo: Annotated[bool, typer.Option("--no-demo", help="Leave the database empty.")] = False,
    lease_ttl: LeaseTtlFlag = None,
) -> None:
    """Start a whole cluster on this machine, with etcd and PostgreSQL, until Ctrl-C."""
    from pollcast.services.local.cluster import Options
    from pollcast.services.local.up import run

    if etcd_nodes not in (1, 3):
        raise SettingsInvalid([Problem("pollcast up", "", "--etcd-nodes", f"is {etcd_nodes}: it must be 1 or 3")])
    if lease_ttl is not None and lease_ttl < 2:
        raise SettingsInvalid([Problem("pollcast up", "", "--lease-ttl", f"is {lease_ttl}: at least 2 s are needed")])
    if database_url is not None:
        database_url = database_url.strip()
        warn_of_libpq(context, "--database-url")
    options = Options(
        gateways=gateways,
        pollers=pollers,
        coordinators=coordinators,
        etcd_nodes=etcd_nodes,
        etcd=etcd,
        database_url=database_url,
        catalog=catalog,
        data_dir=data_dir,
        port=port,
        demo=None if no_demo else demo,
        lease_ttl=lease_ttl,
    )
    logs.configure(level=logging.ERROR)
    asyncio.run(lifecycle.until_stopped(lambda stop: run(options, stop), ends_with_terminal=True))


@app.command(epilog="Example:  pollcast gateway --etcd 127.0.0.1:2379 --catalog shop.toml --http 127.0.0.1:4000")
def gateway(
    etcd: EtcdFlag = None,
    namespace: NamespaceFlag = None,
    catalog: CatalogFlag = None,
    node: NodeFlag = None,
    http: HttpFlag = None,
    grpc: GrpcFlag = None,
    advertise: AdvertiseFlag = None,
    lease_ttl: LeaseTtlFlag = None,
    workers: Annotated[
        str | None, typer.Option(metavar="N|auto", help="Processes that serve the port; auto: one per core.")
    ] = None,
    worker_folder: Annotated[Path | None, typer.Option(hidden=True)] = None,
    local_pages: Annotated[bool, typer.Option("--local-pages", hidden=True)] = False,
) -> None:
    """Run a gateway, which serves clients over WebSocket, server-sent events and gRPC."""
    flags = given(locals())
    for hidden in ("worker_folder", "local_pages"):
        flags.pop(hidden, None)
    settings, hangup = load(GatewaySettings, **flags), asyncio.Event()
    delay = Delay()
    configure_logs("gateway", settings)
    if settings.worker_count > 1:
        from pollcast.gateway import workers as parent

        hangups = Hangups()
        lifecycle.main(lambda stop: parent.run(settings, flags, stop, local_pages, hangups), hangups)
    from pollcast.gateway import service

    lifecycle.main(
        lambda stop: service.run(settings, stop, worker_folder, local_pages=local_pages, hangup=hangup, delay=delay),
        hangup.set,
        delay.end,
    )


@app.command(epilog="Example:  pollcast poller --database-url postgresql://me@db/shop --catalog shop.toml")
def poller(
    context: typer.Context,
    etcd: EtcdFlag = None,
    namespace: NamespaceFlag = None,
    database_url: Annotated[str | None, typer.Option(metavar="URL", help="The database to poll.")] = None,
    listen_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The database to listen on for notifications; default: the polled one."),
    ] = None,
    catalog: CatalogFlag = None,
    node: NodeFlag = None,
    http: HttpFlag = None,
    grpc: GrpcFlag = None,
    advertise: AdvertiseFlag = None,
    lease_ttl: LeaseTtlFlag = None,
    pool: Annotated[int | None, typer.Option(metavar="N", help="Connections to the database.")] = None,
) -> None:
    """Run a poller, which owns topics and polls them."""
    flags = given(locals())
    flags.pop("context")
    settings, hangup = load(PollerSettings, **flags), asyncio.Event()
    configure_logs("poller", settings)
    if context.obj:
        logs.get_logger("database").warning(
            "variables of libpq have no effect: POLLCAST_DATABASE_URL says all", variables=context.obj
        )
    from pollcast.poller import service

    lifecycle.main(lambda stop: service.run(settings, stop, hangup), hangup.set)


@app.command(epilog="Example:  pollcast coordinator --etcd 10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379")
def coordinator(
    etcd: EtcdFlag = None,
    namespace: NamespaceFlag = None,
    catalog: CatalogFlag = None,
    node: NodeFlag = None,
    http: HttpFlag = None,
    grpc: GrpcFlag = None,
    advertise: AdvertiseFlag = None,
    lease_ttl: LeaseTtlFlag = None,
) -> None:
    """Run a coordinator, which shows and steers the cluster. Results reach clients without one too."""
    settings, hangup = load(CoordinatorSettings, **given(locals())), asyncio.Event()
    configure_logs("coordinator", settings)
    from pollcast.coordinator import service

    lifecycle.main(lambda stop: service.run(settings, stop, hangup), hangup.set)
