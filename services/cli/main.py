"""The command line `pollcast`: it starts services and clusters, and shows them (docs/reference/commands.md).

Flags take precedence over the environment. An error is printed to stderr as one message without a traceback, and ends
the process with the error's exit status. A command imports its modules when it runs, so that `--help` is fast and one
service never loads another.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from pollcast.services.cli.doctor import doctor_command
from pollcast.services.errors import CatalogInvalid, PollcastError, Problem, SettingsInvalid
from pollcast.services.process import lifecycle, logs, surroundings, tracing, variables
from pollcast.services.process.settings import (
    CoordinatorSettings,
    EtcdSettings,
    GatewaySettings,
    PollerSettings,
    ServiceSettings,
    load,
)

app = typer.Typer(
    name="pollcast",
    help="Live results from databases that cannot announce changes: polled once, pushed to every subscriber.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(doctor_command.app)

# Flags of several commands. None means not given: then POLLCAST_* or the default applies.
EtcdFlag = Annotated[str | None, typer.Option("--etcd", metavar="URLS", help="etcd's endpoints, comma-separated.")]
NamespaceFlag = Annotated[str | None, typer.Option(metavar="PREFIX", help="Prefix of all keys in etcd.")]
NodeFlag = Annotated[str | None, typer.Option(metavar="NAME", help="This node's name, unique in the cluster.")]
HttpFlag = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Address to serve HTTP on; port 0: any.")]
GrpcFlag = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Address to serve gRPC on; port 0: any.")]
AdvertiseFlag = Annotated[str | None, typer.Option(metavar="HOST", help="Host by which other nodes reach this one.")]
LeaseTtlFlag = Annotated[
    int | None, typer.Option(metavar="SECONDS", help="Time to live of the node's lease, at least 2.")
]
CatalogFlag = Annotated[Path | None, typer.Option("--catalog", metavar="FILE", help="The catalogue.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TokenFlag = Annotated[
    str | None, typer.Option(metavar="TOKEN", help="Token, for gateways that require one; default: POLLCAST_TOKEN.")
]


def _version(requested: bool) -> None:
    if requested:
        from pollcast.services.process.version import VERSION

        print(f"pollcast {VERSION}")
        raise typer.Exit


@app.callback()
def pollcast(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Every flag of a service can also be set as POLLCAST_<FLAG>."""


# --- a whole cluster ----------------------------------------------------------------------------------------------


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
        _warn_of_libpq(context, "--database-url")
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
        demo=not no_demo,
        lease_ttl=lease_ttl,
    )
    logs.configure(level=logging.ERROR)
    asyncio.run(lifecycle.until_stopped(lambda stop: run(options, stop), ends_with_terminal=True))


# --- services -----------------------------------------------------------------------------------------------------


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
    flags = _given(locals())
    for hidden in ("worker_folder", "local_pages"):
        flags.pop(hidden, None)
    settings = load(GatewaySettings, **flags)
    _configure_logs("gateway", settings)
    if settings.worker_count > 1:
        from pollcast.gateway import workers as parent

        lifecycle.main(lambda stop: parent.run(settings, flags, stop, local_pages))
    from pollcast.gateway import service

    lifecycle.main(lambda stop: service.run(settings, stop, worker_folder, local_pages=local_pages))


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
    flags = _given(locals())
    flags.pop("context")
    settings = load(PollerSettings, **flags)
    _configure_logs("poller", settings)
    if context.obj:
        logs.get_logger("database").warning(
            "variables of libpq have no effect: POLLCAST_DATABASE_URL says all", variables=context.obj
        )
    from pollcast.poller import service

    lifecycle.main(lambda stop: service.run(settings, stop))


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
    settings = load(CoordinatorSettings, **_given(locals()))
    _configure_logs("coordinator", settings)
    from pollcast.coordinator import service

    lifecycle.main(lambda stop: service.run(settings, stop))


def _given(flags: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value is not None}


def _warn_of_libpq(context: typer.Context, url: str) -> None:
    """Report the variables of libpq that were removed from the environment, where a database is somebody's own."""
    if context.obj:
        print(f"pollcast: {', '.join(context.obj)} have no effect: {url} says all", file=sys.stderr)


def _configure_logs(role: str, settings: ServiceSettings) -> None:
    logs.configure(role=role, node=settings.node)
    tracing.start(role, settings.node)


# --- for people at a terminal -------------------------------------------------------------------------------------


@app.command(epilog="Example:  pollcast check shop.toml --database-url postgresql://me@db/shop")
def check(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="The catalogue; default: POLLCAST_CATALOG.")
    ] = None,
    database_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Try each query on this database; only one with a key is run, once."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check a catalogue: print every problem and exit with 2, or list its queries and those polled one by one."""
    from pollcast.poller import catalog_check
    from pollcast.services.catalogue import catalog as catalogue

    named = None if file else variables.alone("catalog", os.environ)
    path = file or (Path(named) if named else None)
    if path is None:
        raise SettingsInvalid([Problem("pollcast check", "", "FILE", "is required, unless POLLCAST_CATALOG is set")])
    if database_url is not None:
        _warn_of_libpq(context, "--database-url")
    try:
        catalog = catalogue.load(path)
        report = catalog_check.report(catalog, str(path), database_url)
    except CatalogInvalid as error:
        if not as_json:
            raise
        problems = [{"file": p.file, "query": p.query, "field": p.field, "reason": p.reason} for p in error.problems]
        print(json.dumps({"ok": False, "problems": problems}))
        raise typer.Exit(error.exit) from None
    if as_json:
        queries = [
            {
                **query.public(),
                "multiplexed": report.one_by_one[name] is None,
                "one_by_one_because": report.one_by_one[name],
                "digest": report.digests[name],
                "notes": report.notes[name],
            }
            for name, query in catalog.queries.items()
        ]
        print(json.dumps({"ok": True, "problems": [], "queries": queries}))
        return
    print(f"{path}: fine, {len(catalog.queries)} {'query' if len(catalog.queries) == 1 else 'queries'}:")
    for name, query in catalog.queries.items():
        print(f"  {name}" + (f": {query.title}" if query.title else ""))
        why = report.one_by_one[name]
        where = "" if query.together is True else " while the poller measures that to be cheaper"
        print("    " + (f"polled one by one: {why}" if why else f"its topics are polled together{where}"))
        if digest := report.digests[name]:
            listed = "; ".join(f"{form} {', '.join(columns)}" for form, columns in digest.items() if columns)
            print(
                f"    its rows are sent when their digest has changed, while that is cheaper: {listed or 'no columns'}"
            )
        for note in report.notes[name]:
            print(f"    note: {note}")


@app.command(epilog="Example:  pollcast watch 'richest_tellers?limit=3'")
def watch(
    topic: Annotated[str, typer.Argument(help="<query> or <query>?<name>=<value>&…")],
    etcd: EtcdFlag = None,
    namespace: NamespaceFlag = None,
    gateway: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="gRPC of a gateway; default: any.")] = None,
    token: TokenFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Watch a topic: show its rows as they change, until Ctrl-C."""
    from pollcast.services.cli import watching

    settings = load(ServiceSettings, etcd=etcd, namespace=namespace)
    token = token or variables.alone("token", os.environ)
    logs.configure(level=logging.ERROR)
    asyncio.run(watching.watch(topic, settings, gateway=gateway, token=token, as_json=as_json))


@app.command(epilog="Example:  pollcast nodes --json")
def nodes(etcd: EtcdFlag = None, namespace: NamespaceFlag = None, as_json: JsonFlag = False) -> None:
    """List the nodes that are registered in etcd."""
    from pollcast.services.cli import listing

    logs.configure(level=logging.ERROR)
    asyncio.run(listing.show_nodes(_etcd_settings(etcd, namespace), as_json=as_json))


@app.command(epilog="Example:  pollcast topics --query richest_tellers")
def topics(
    etcd: EtcdFlag = None,
    namespace: NamespaceFlag = None,
    query: Annotated[str, typer.Option(metavar="NAME", help="Only topics of this query.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """List the topics that have demand or an owner, with owner, state, clients and rates."""
    from pollcast.services.cli import listing

    settings = load(ServiceSettings, etcd=etcd, namespace=namespace)
    logs.configure(level=logging.ERROR)
    asyncio.run(listing.show_topics(settings, query=query, as_json=as_json))


@app.command(epilog="Example:  pollcast poke 'orders?region=north'")
def poke(
    topic: Annotated[str, typer.Argument(help="<query>?<name>=<value>&…, or <query> for all its topics")],
    etcd: EtcdFlag = None,
    namespace: NamespaceFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Have a topic, or all topics of a query, polled at once, because something changed."""
    from pollcast.services.cli import poking

    settings = load(ServiceSettings, etcd=etcd, namespace=namespace)
    logs.configure(level=logging.ERROR)
    asyncio.run(poking.poke(topic, settings, as_json=as_json))


@app.command(epilog="Example:  pollcast top --json | jq '.topics | length'")
def top(etcd: EtcdFlag = None, namespace: NamespaceFlag = None, as_json: JsonFlag = False) -> None:
    """Show the cluster live, topics sorted by cost, with keys to sort, filter, move and drain."""
    from pollcast.services.cli import top as live

    settings = load(ServiceSettings, etcd=etcd, namespace=namespace)
    logs.configure(level=logging.ERROR)
    asyncio.run(live.top(settings, as_json=as_json))


@app.command(epilog="Example:  POLLCAST_AUTH_SECRET=… pollcast token --sub alice --claim tenant_id=acme --role sales")
def token(
    sub: Annotated[str | None, typer.Option(help="Subject of the token, which is its presence key.")] = None,
    role: Annotated[list[str] | None, typer.Option(help="Role; may be repeated.")] = None,
    claim: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Claim; may be repeated.")] = None,
    expires: Annotated[
        str, typer.Option(metavar="DURATION", help="Time until the token expires: 90s, 15m, 12h.")
    ] = "1h",
    secret: Annotated[
        str | None, typer.Option(help="Secret to sign with (HS256); default: POLLCAST_AUTH_SECRET.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print a signed token, for trials and tests."""
    from pollcast.services.cli.signing import sign_token

    signed, claims = sign_token(secret, sub=sub, roles=role or [], claims=claim or [], expires=expires)
    print(json.dumps({"token": signed, "claims": claims}) if as_json else signed)


def _etcd_settings(etcd: str | None, namespace: str | None) -> EtcdSettings:
    return load(EtcdSettings, etcd=etcd, namespace=namespace)


def main() -> NoReturn:
    """Run the command line; the console script `pollcast`."""
    removed = surroundings.clear(os.environ)  # before anything connects to a database
    try:
        app(obj=removed)
    except PollcastError as error:
        print(f"pollcast: {error.detail}", file=sys.stderr)
        raise SystemExit(error.exit) from None
    except BrokenPipeError:  # the reader of our output closed it, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    raise AssertionError("typer ends by raising SystemExit")
