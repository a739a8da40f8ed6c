"""Flags that several commands have, and what commands do with them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pollcast.services.process import logs, tracing
from pollcast.services.process.settings import EtcdSettings, ServiceSettings, load

# None means not given: then POLLCAST_* or the default applies.
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


def given(flags: dict[str, Any]) -> dict[str, Any]:
    """Return the flags that were given."""
    return {name: value for name, value in flags.items() if value is not None}


def warn_of_libpq(context: typer.Context, url: str) -> None:
    """Report the variables of libpq that were removed from the environment, where a database is somebody's own."""
    if context.obj:
        print(f"pollcast: {', '.join(context.obj)} have no effect: {url} says all", file=sys.stderr)


def configure_logs(role: str, settings: ServiceSettings) -> None:
    """Have the process log and trace as this service."""
    logs.configure(role=role, node=settings.node)
    tracing.start(role, settings.node)


def etcd_settings(etcd: str | None, namespace: str | None) -> EtcdSettings:
    """Return how etcd is reached. Raises SettingsInvalid."""
    return load(EtcdSettings, etcd=etcd, namespace=namespace)
