"""The command `pollcast doctor` (docs/reference/commands.md#doctor)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from pollcast.services.cli.flags import CatalogFlag, EtcdFlag, JsonFlag, NamespaceFlag
from pollcast.services.process import logs

app = typer.Typer()


@app.command(epilog="Example:  pollcast doctor --database-url postgresql://pollcast_reader@db/shop")
def doctor(
    context: typer.Context,
    etcd: EtcdFlag = None,
    namespace: NamespaceFlag = None,
    database_url: Annotated[
        str | None, typer.Option(metavar="URL", help="The database that pollers poll, to look at it as well.")
    ] = None,
    catalog: CatalogFlag = None,
    data_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Look at the cluster that pollcast up runs on this folder.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Look at etcd, the database, the nodes and the topics: print what is wrong and what to do; exit 1 if anything."""
    from pollcast.services.cli.doctor.diagnosis import examine, shown
    from pollcast.services.cli.doctor.doctor_settings import of_data_dir

    logs.configure(level=logging.CRITICAL)
    flags: dict[str, str | Path | None] = {"etcd": etcd, "namespace": namespace, "database_url": database_url}
    if data_dir is not None:
        here = of_data_dir(data_dir)
        flags = {name: value or here.get(name) for name, value in flags.items()}
    found = examine(flags | {"catalog": catalog}, context.obj or ())
    print(shown(found, as_json=as_json))
    if any(finding.level == "wrong" for finding in found):
        raise typer.Exit(1)
