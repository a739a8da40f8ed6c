"""The processes of a benchmark: clients, yardsticks and gateways, each by its pipes, its CPU time and its memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import psutil

STOP_SECONDS = 10.0
LINE_BYTES = 16 * 1024 * 1024


def raise_file_limit() -> int:
    """As many open files as this machine allows; the number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Process:
    """One process that we started, with its CPU seconds and its memory."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._seen = psutil.Process(process.pid)

    @property
    def cpu(self) -> float:
        """Seconds, user and system, ever."""
        times = self._seen.cpu_times()
        return float(times.user + times.system)

    @property
    def rss(self) -> int:
        """Bytes that are resident."""
        return int(self._seen.memory_info().rss)

    async def line(self) -> bytes:
        assert self.process.stdout is not None
        return (await self.process.stdout.readline()).strip()

    def say(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")

    async def ask(self, **order: Any) -> dict[str, Any]:
        """A command to a swarm, and its answer."""
        self.say(orjson.dumps(order))
        answer = await self.line()
        if not answer:
            raise RuntimeError(f"{order['do']}: the process ended")
        result: dict[str, Any] = orjson.loads(answer)
        return result


@contextlib.asynccontextmanager
async def running(
    *command: str, environment: dict[str, str] | None = None, errors: Path | None = None
) -> AsyncIterator[Process]:
    """A process with pipes, ended on leaving. `errors` is where its standard error goes."""
    with errors.open("wb") if errors is not None else contextlib.nullcontext() as log:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env=os.environ | (environment or {}),
            limit=LINE_BYTES,
        )
    try:
        yield Process(process)
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def module(name: str, *arguments: object) -> tuple[str, ...]:
    """The command that runs one of our modules."""
    return sys.executable, "-m", name, *map(str, arguments)


@contextlib.asynccontextmanager
async def swarm() -> AsyncIterator[Process]:
    async with running(*module("bench.swarm")) as process:
        yield process
