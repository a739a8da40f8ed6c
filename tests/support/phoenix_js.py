"""The real phoenix.js, driven by tests: one Node.js process (tests/support/js/client.mjs) with many sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson

from tests.support.node_js import Script, running_script

CLIENT = Path(__file__).parent / "js" / "client.mjs"

JsEvent = dict[str, Any]
"""Something that happened in phoenix.js, as client.mjs reports it."""


class PhoenixJs:
    """A process with phoenix.js. `happened` has its events in order.

    An event is `{"socket","topic","event"|"reply","payload"|"response",…}`.
    """

    def __init__(self, script: Script) -> None:
        self.happened: list[JsEvent] = []
        self._script = script
        self._arrived = asyncio.Event()

    @staticmethod
    @contextlib.asynccontextmanager
    async def start() -> AsyncIterator[PhoenixJs]:
        """Run the process inside the scope."""
        async with running_script(CLIENT) as script, asyncio.TaskGroup() as tasks:
            phoenix = PhoenixJs(script)
            reading = tasks.create_task(phoenix._read())
            yield phoenix
            reading.cancel()

    async def _read(self) -> None:
        async for line in self._script.output:
            self.happened.append(json.loads(line))  # orjson refuses surrogates that stand alone
            self._arrived.set()

    def do(self, op: str, **command: Any) -> None:
        """Send one of the commands that client.mjs describes."""
        self._script.input.write(orjson.dumps({"op": op, **command}) + b"\n")

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
