"""A service with a probe: `python -m bench.probe SOCKET … -m pollcast gateway …` runs `pollcast gateway …` in this
process, and answers each connection to the Unix socket with one line of JSON about the process.

The answer has its resident memory in KiB after a full collection and a trim of the heap, its file descriptors, threads,
tasks and scheduled timers, its CPU time, and how many objects of each type it holds.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import orjson
import psutil
import uvloop

TIMER = "uvloop.loop.UVTimer"
"""The type of a timer that is scheduled: uvloop keeps each until it has fired or is cancelled."""

POOL = 4
"""Number of threads that gRPC always has for its work: the name of each is `event_engine`."""

HELPERS = 8
"""Maximum number of threads that gRPC may have besides, because its work had to wait for a processor."""

COMMON = 60
"""Number of types that the answer counts."""


def measure() -> dict[str, Any]:
    """Return what this process holds."""
    gc.unfreeze()
    gc.collect()
    objects = gc.get_objects()
    objects = gc.get_objects()
    types = Counter(_name(type(each)) for each in objects)
    timers = Counter(_waiter(each) for each in objects if _name(type(each)) == TIMER and "closed=False" in repr(each))
    del objects
    gc.freeze()
    ctypes.CDLL(None).malloc_trim(0)
    proc = Path("/proc/self")
    pages = int((proc / "statm").read_text().split()[1])
    return {
        "pid": os.getpid(),
        "rss": pages * os.sysconf("SC_PAGE_SIZE") // 1024,
        "fds": len(list((proc / "fd").iterdir())) - 1,  # without that of the listing
        "threads": len(list((proc / "task").iterdir())) - _executor_threads() - _helping_threads(),
        "tasks": len(asyncio.all_tasks()) - 1,  # without that of the answer
        "timers": timers.total(),
        "cpu": time.process_time(),
        "types": dict(types.most_common(COMMON)),
        "waits": dict(timers),
        "connections": _connections(),
    }


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _waiter(timer: object) -> str:
    """Return the name of the coroutine that waits for a timer, or of the function that it will call."""
    handles = [each for each in gc.get_referents(timer) if type(each).__name__ == "TimerHandle"]
    for callback in gc.get_referents(handles[0])[:1] if handles else []:
        task = getattr(getattr(callback, "__self__", None), "_task", None)  # of a timeout
        for argument in gc.get_referents(handles[0])[1] or ():  # the future of a sleep
            waiting = getattr(argument, "_callbacks", None) or [(None, None)]
            task = getattr(waiting[0][0], "__self__", task)
        if isinstance(task, asyncio.Task):
            return getattr(task.get_coro(), "__qualname__", "another coroutine")
        return getattr(callback, "__qualname__", repr(callback))
    return "nothing"


def _executor_threads() -> int:
    """Return the number of threads of executors, which are started when they are needed, up to a fixed number."""
    return sum(thread.name.startswith(("asyncio_", "ThreadPoolExecutor-")) for thread in threading.enumerate())


def _helping_threads() -> int:
    """Return the number of threads that gRPC has started while its work waited for a processor.

    It ends them when they are idle. More than HELPERS of them count: they would be a leak.
    """
    names = [file.read_text() for file in Path("/proc/self/task").glob("*/comm")]
    return min(HELPERS, max(0, names.count("event_engine\n") - POOL))


def _connections() -> dict[str, int]:
    """Return the number of connections to each port that is listened on, here or by others; etcd's among them."""
    found = [each for each in psutil.Process().net_connections("tcp") if each.laddr]
    own = {each.laddr.port for each in found if each.status == psutil.CONN_LISTEN}
    ends = [(each.laddr.port, each.raddr.port, each.status) for each in found if each.raddr]
    return dict(
        Counter(
            f"{f'from clients to {here}' if here in own else f'to {there}'} {status.lower()}"
            for here, there, status in ends
        )
    )


async def _answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(orjson.dumps(measure()))
    await writer.drain()
    writer.close()


def main() -> None:
    """Run the service."""
    path, arguments = sys.argv[1], sys.argv[sys.argv.index("pollcast") + 1 :]
    run = uvloop.run

    def run_with_probe(service: Coroutine[Any, Any, Any], **options: Any) -> Any:
        async def probed() -> Any:
            server = await asyncio.start_unix_server(_answer, path)
            try:
                return await service
            finally:
                server.close()

        return run(probed(), **options)

    uvloop.run = run_with_probe  # type: ignore[assignment]
    sys.argv = ["pollcast", *arguments]
    from pollcast.services.cli.main import main as pollcast

    pollcast()


if __name__ == "__main__":
    main()
