"""The commands for people at a terminal that look at a running cluster, and `pollcast token`."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from typing import Annotated

import typer

from pollcast.services.cli.flags import DataDirFlag, EtcdFlag, JsonFlag, NamespaceFlag, TokenFlag, cluster_settings
from pollcast.services.process import logs, variables
from pollcast.services.process.settings import ServiceSettings

app = typer.Typer()


@app.command(epilog="Example:  pollcast watch 'richest_tellers?limit=3'")
def watch(
    topic: Annotated[str, typer.Argument(help="<query> or <query>?<name>=<value>&…")],
    etcd: EtcdFlag = None,
    namespace: NamespaceFlag = None,
    data_dir: DataDirFlag = None,
    gateway: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="gRPC of a gateway; default: any.")] = None,
    token: TokenFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Watch a topic: show its rows as they change, until Ctrl-C."""
    from pollcast.services.cli import watching

    settings = cluster_settings(ServiceSettings, etcd, namespace, data_dir)
    token = token or variables.alone("token", os.environ)
    logs.configure(level=logging.ERROR)
    asyncio.run(watching.watch(topic, settings, gateway=gateway, token=token, as_json=as_json))


@app.command(epilog="Example:  pollcast nodes --json")
def nodes(
    etcd: EtcdFlag = None,
    namespace: NamespaceFlag = None,
    data_dir: DataDirFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """List the nodes that are registered in etcd, with the databases of pollers."""
    from pollcast.services.cli import listing

    settings = cluster_settings(ServiceSettings, etcd, namespace, data_dir)
    logs.configure(level=logging.ERROR)
    asyncio.run(listing.show_nodes(settings, as_json=as_json))


@app.command(epilog="Example:  pollcast topics --query richest_tellers")
def topics(
    etcd: EtcdFlag = None,
    namespace: NamespaceFlag = None,
    data_dir: DataDirFlag = None,
    query: Annotated[str, typer.Option(metavar="NAME", help="Only topics of this query.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """List the topics that have demand or an owner, with owner, state, clients and rates."""
    from pollcast.services.cli import listing

    settings = cluster_settings(ServiceSettings, etcd, namespace, data_dir)
    logs.configure(level=logging.ERROR)
    asyncio.run(listing.show_topics(settings, query=query, as_json=as_json))


@app.command(epilog="Example:  pollcast poke 'orders?region=north'")
def poke(
    topic: Annotated[str, typer.Argument(help="<query>?<name>=<value>&…, or <query> for all its topics")],
    etcd: EtcdFlag = None,
    namespace: NamespaceFlag = None,
    data_dir: DataDirFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Have a topic, or all topics of a query, polled at once, because something changed."""
    from pollcast.services.cli import poking

    settings = cluster_settings(ServiceSettings, etcd, namespace, data_dir)
    logs.configure(level=logging.ERROR)
    asyncio.run(poking.poke(topic, settings, as_json=as_json))


@app.command(epilog="Example:  pollcast top --json | jq '.topics | length'")
def top(
    etcd: EtcdFlag = None,
    namespace: NamespaceFlag = None,
    data_dir: DataDirFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the cluster live, topics sorted by cost, with keys to sort, filter, move and drain."""
    from pollcast.services.cli import top as live

    settings = cluster_settings(ServiceSettings, etcd, namespace, data_dir)
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
