"""The command `python -m bench [name…] [--option…]`, which runs the named benchmarks, or all of them.

Options belong to the benchmark that is named; `scale`, `soak` and `rolling` take some. The last two take long and
`page` needs Chromium, so they run only when they are named."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import time

import uvloop

from bench.processes import raise_file_limit
from pollcast.services.process import logs

ALL = (
    "fanout",
    "memory",
    "latency",
    "poke",
    "notifications",
    "storm",
    "slow",
    "stops",
    "compression",
    "peers",
    "polling",
    "sources",
    "takeover",
    "presence",
    "workers",
    "scale",
)

LONG = ("soak", "rolling", "page")
"""Benchmarks that run only when they are named."""

WITH_OPTIONS = ("scale", "soak", "rolling")


def main() -> None:
    """Run the benchmarks that the command line names, one after the other."""
    arguments = sys.argv[1:]
    at = next((at for at, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))
    names, options = arguments[:at] or ALL, arguments[at:]
    if options and not (len(names) == 1 and names[0] in WITH_OPTIONS):
        raise SystemExit(f"only {' and '.join(WITH_OPTIONS)} take options, and only alone")
    unknown = [name for name in names if name not in (*ALL, *LONG)]
    if unknown:
        raise SystemExit(f"there is no benchmark {unknown[0]!r}; choose from {', '.join((*ALL, *LONG))}")
    os.environ["GRPC_VERBOSITY"] = "ERROR"
    logs.configure(level=logging.WARNING)
    raise_file_limit()
    for name in names:
        began = time.monotonic()
        run = importlib.import_module(f"bench.{name}").run
        uvloop.run(run(options) if options else run())
        print(f"({name}: {time.monotonic() - began:.0f} s)\n", flush=True)


if __name__ == "__main__":
    main()
