"""The command line `pollcast`: it starts services and clusters, and shows them (docs/reference/commands.md).

Flags take precedence over the environment. An error is printed to stderr as one message without a traceback, and ends
the process with the error's exit status. A command imports its modules when it runs, so that `--help` is fast and one
service never loads another.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

from pollcast.services.cli import check_command, service_commands, terminal_commands, types_command
from pollcast.services.cli.doctor import doctor_command
from pollcast.services.errors import PollcastError
from pollcast.services.process import surroundings

app = typer.Typer(
    name="pollcast",
    help="Live results from databases that cannot announce changes: polled once, pushed to every subscriber.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


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


for part in (service_commands, check_command, types_command, doctor_command, terminal_commands):
    app.add_typer(part.app)


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
