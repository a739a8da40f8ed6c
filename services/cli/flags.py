"""Flags that several commands have, and what commands do with them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from pollcast.services.errors import Problem, SettingsInvalid
from pollcast.services.process import logs, tracing
from pollcast.services.process.settings import EtcdSettings, ServiceSettings, load

S = TypeVar("S", bound=EtcdSettings)

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
DataDirFlag = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", metavar="DIR", help="The cluster of `pollcast up --data-dir DIR`: its etcd and namespace."
    ),
]
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


def cluster_settings(kind: type[S], etcd: str | None, namespace: str | None, data_dir: Path | None) -> S:
    """Return the settings with which a command reaches a cluster: those that `pollcast up` wrote into the folder, or
    those of the flags and of the environment. Raises SettingsInvalid."""
    if data_dir is None:
        return load(kind, etcd=etcd, namespace=namespace)
    if etcd is not None or namespace is not None:
        raise _wrong("says where etcd is: leave out --etcd and --namespace")
    file = data_dir / "cluster.json"
    try:
        cluster = json.loads(file.read_bytes())
        return load(kind, etcd=",".join(cluster["etcd"]), namespace=cluster["namespace"])
    except FileNotFoundError:
        raise _wrong(f"there is no {file}: no cluster runs there") from None
    except OSError as error:
        raise _wrong(f"{file} can't be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError):
        raise _wrong(f"{file} is not what pollcast up writes") from None


def _wrong(reason: str) -> SettingsInvalid:
    return SettingsInvalid([Problem("flags", "", "--data-dir", reason)])
