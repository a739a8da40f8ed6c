"""The command `python -m bench [name…]`, which runs the named benchmarks, or all of them."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import time

import uvloop

from bench.processes import raise_file_limit
from pollcast.services.process import logs

ALL = ("fanout", "memory", "latency", "storm", "slow", "compression", "peers", "polling", "takeover", "presence")


def main() -> None:
    """Run the benchmarks that the command line names, one after the other."""
    names = sys.argv[1:] or ALL
    unknown = [name for name in names if name not in ALL]
    if unknown:
        raise SystemExit(f"there is no benchmark {unknown[0]!r}; choose from {', '.join(ALL)}")
    os.environ["GRPC_VERBOSITY"] = "ERROR"
    logs.configure(level=logging.WARNING)
    raise_file_limit()
    for name in names:
        began = time.monotonic()
        uvloop.run(importlib.import_module(f"bench.{name}").run())
        print(f"({name}: {time.monotonic() - began:.0f} s)\n", flush=True)


if __name__ == "__main__":
    main()
