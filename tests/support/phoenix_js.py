"""The real phoenix.js (tests/support/js/client.mjs) on a leash: one Node process with any number of sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson

CLIENT = Path(__file__).parent / "js" / "client.mjs"

Said = dict[str, Any]


class PhoenixJs:
    """`said` is everything that happened, in order: `{"socket","topic","event"|"reply","payload"|"response",…}`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.said: list[Said] = []
        self._process = process
        self._news = asyncio.Event()

    @staticmethod
    @contextlib.asynccontextmanager
    async def start() -> AsyncIterator[PhoenixJs]:
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
            self.said.append(orjson.loads(line))
            self._news.set()

    def do(self, op: str, **command: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(orjson.dumps({"op": op, **command}) + b"\n")

    async def hears(self, matches: Callable[[Said], bool], *, after: int = 0, seconds: float = 20.0) -> Said:
        """The first thing said, from index `after` on, that matches; AssertionError with all that was said instead."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    self._news.clear()
                    for said in self.said[after:]:
                        if matches(said):
                            return said
                    await self._news.wait()
        except TimeoutError:
            heard = "\n".join(str(said)[:300] for said in self.said[after:])
            raise AssertionError(f"not heard within {seconds} s; heard:\n{heard}") from None

    def of(self, socket: str, topic: str, event: str) -> list[Said]:
        """The payloads of an event on a topic of a socket, so far."""
        return [
            said["payload"]
            for said in self.said
            if said.get("socket") == socket and said.get("topic") == topic and said.get("event") == event
        ]
