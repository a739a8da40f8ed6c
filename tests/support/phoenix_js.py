"""The real phoenix.js, driven by tests: one Node.js process (tests/support/js/client.mjs) with many sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson

CLIENT = Path(__file__).parent / "js" / "client.mjs"

JsEvent = dict[str, Any]
"""Something that happened in phoenix.js, as client.mjs reports it."""


class PhoenixJs:
    """A process with phoenix.js. `happened` has its events in order.

    An event is `{"socket","topic","event"|"reply","payload"|"response",…}`.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.happened: list[JsEvent] = []
        self._process = process
        self._arrived = asyncio.Event()

    @staticmethod
    @contextlib.asynccontextmanager
    async def start() -> AsyncIterator[PhoenixJs]:
        """Run the process inside the scope."""
        here = str(Path(sys.executable).parent)  # Node.js comes into the virtual environment as a wheel
        node = shutil.which("node", path=os.pathsep.join([here, os.environ["PATH"]]))
        assert node is not None, "Node.js is missing: make install"
        process = await asyncio.create_subprocess_exec(
            node,
            str(CLIENT),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**26,
            env=os.environ,
        )
        phoenix = PhoenixJs(process)
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(phoenix._read())
            yield phoenix
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()
            reading.cancel()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.happened.append(json.loads(line))  # orjson refuses surrogates that stand alone
            self._arrived.set()

    def do(self, op: str, **command: Any) -> None:
        """Send one of the commands that client.mjs describes."""
        assert self._process.stdin is not None
        self._process.stdin.write(orjson.dumps({"op": op, **command}) + b"\n")

    async def wait_for(self, matches: Callable[[JsEvent], bool], *, after: int = 0, seconds: float = 20.0) -> JsEvent:
        """Return the first matching event from index `after` on; wait for it if need be.

        Raises AssertionError, with the events that came instead, when there is none in time.
        """
        try:
            async with asyncio.timeout(seconds):
                while True:
                    self._arrived.clear()
                    for event in self.happened[after:]:
                        if matches(event):
                            return event
                    await self._arrived.wait()
        except TimeoutError:
            others = "\n".join(str(event)[:300] for event in self.happened[after:])
            raise AssertionError(f"not reported within {seconds} s; reported:\n{others}") from None

    def of(self, socket: str, topic: str, event: str) -> list[JsEvent]:
        """Return the payloads of an event on a topic of a socket, so far."""
        return [
            each["payload"]
            for each in self.happened
            if each.get("socket") == socket and each.get("topic") == topic and each.get("event") == event
        ]
