"""The command `pollcast check`: a catalogue is checked, alone or on a database."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from pollcast.services.cli.flags import JsonFlag, warn_of_libpq
from pollcast.services.errors import CatalogInvalid, Problem, SettingsInvalid
from pollcast.services.process import variables

app = typer.Typer()


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
    from pollcast.poller import checking
    from pollcast.services.catalogue import catalog as catalogue

    named = None if file else variables.alone("catalog", os.environ)
    path = file or (Path(named) if named else None)
    if path is None:
        raise SettingsInvalid([Problem("pollcast check", "", "FILE", "is required, unless POLLCAST_CATALOG is set")])
    if database_url is not None:
        warn_of_libpq(context, "--database-url")
    try:
        catalog = catalogue.load(path)
        report = checking.report(catalog, str(path), database_url, os.environ)
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
