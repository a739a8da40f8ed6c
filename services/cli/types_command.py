"""The command `pollcast types`: types of a catalogue's parameters and rows, for TypeScript and Python."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from pollcast.services.cli.flags import CatalogFlag, warn_of_libpq
from pollcast.services.errors import PollStale, Problem, SettingsInvalid
from pollcast.services.process import variables

app = typer.Typer()

INTEGERS = ("bigint", "string", "number")
"""Forms that the JavaScript client gives to large integers."""


@app.command(epilog="Example:  pollcast types --catalog shop.toml --typescript src/pollcast.ts --python shop_types.py")
def types(
    context: typer.Context,
    typescript: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write TypeScript interfaces to this file; -: to stdout.")
    ] = None,
    python: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write Pydantic models to this file; -: to stdout.")
    ] = None,
    database_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="The database that describes the rows; default: POLLCAST_DATABASE_URL. No query is run."
        ),
    ] = None,
    catalog: CatalogFlag = None,
    integers: Annotated[
        str,
        typer.Option(metavar="FORM", help="The client's option `integers` for 64-bit ones: bigint, string or number."),
    ] = "bigint",
) -> None:
    """Write types of the catalogue's parameters and rows; without a FILE, print TypeScript."""
    from pollcast.poller.row_typing import row_types
    from pollcast.services.catalogue import catalog as catalogue
    from pollcast.services.cli import pydantic_models
    from pollcast.services.cli import typescript as interfaces

    if database_url is not None:
        warn_of_libpq(context, "--database-url")
    named = catalog or variables.alone("catalog", os.environ)
    url = database_url or variables.alone("database_url", os.environ, secret=True)
    if named is None:
        raise _invalid("--catalog", "is required, unless POLLCAST_CATALOG is set")
    if integers not in INTEGERS:
        raise _invalid("--integers", f"is {integers!r}: it must be bigint, string or number")
    path = Path(named)
    queries = catalogue.load(path)
    if url is None and queries.polls_default_url:
        raise _invalid("--database-url", "is required, unless POLLCAST_DATABASE_URL is set: it describes the rows")
    try:
        rows = row_types(queries, str(path), None if url is None else url.strip(), os.environ)
    except PollStale as error:
        raise _invalid("--database-url", error.detail) from None
    if typescript is not None or python is None:
        text = interfaces.typescript(queries, rows, path.name, integers)
        _write(typescript or Path("-"), text)
    if python is not None:
        _write(python, pydantic_models.pydantic_models(queries, rows, path.name))


def _invalid(flag: str, reason: str) -> SettingsInvalid:
    return SettingsInvalid([Problem("pollcast types", "", flag, reason)])


def _write(file: Path, text: str) -> None:
    """Write a whole file, or print the text for `-`. A file that has this text already is not touched."""
    if str(file) == "-":
        sys.stdout.write(text)
        return
    try:
        if file.is_file() and file.read_bytes() == text.encode():
            print(f"{file} is up to date", file=sys.stderr)
            return
        _replace(file, text.encode())
    except OSError as error:
        raise _invalid(str(file), f"can't be written: {error.strerror}") from None
    print(f"{file} is written", file=sys.stderr)


def _replace(file: Path, content: bytes) -> None:
    """Replace a file's content in one step, so that no compiler reads half of it."""
    target = file.resolve()  # of a symbolic link, what it points to
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        temporary.chmod(target.stat().st_mode if target.exists() else 0o666 & ~_umask())
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
