"""The processes of a benchmark (clients, yardsticks, gateways): their pipes, CPU time and memory."""

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
    """Allow this process as many open files as the machine permits, and return that number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Process:
    """A process that the benchmark started, with its CPU time and its memory."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._seen = psutil.Process(process.pid)

    @property
    def cpu(self) -> float:
        """The CPU time (user and system) since the process started, in seconds."""
        times = self._seen.cpu_times()
        return float(times.user + times.system)

    @property
    def cpu_of_workers(self) -> list[float]:
        """The CPU time of each child process that runs now, in seconds."""
        times = [child.cpu_times() for child in self._seen.children(recursive=True)]
        return [float(each.user + each.system) for each in times]

    @property
    def rss(self) -> int:
        """The resident memory, in bytes."""
        return int(self._seen.memory_info().rss)

    async def line(self) -> bytes:
        """Return the next line of the standard output, or b"" when the process has ended."""
        assert self.process.stdout is not None
        return (await self.process.stdout.readline()).strip()

    def write_line(self, line: bytes) -> None:
        """Write a line to the standard input, without waiting."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")

    async def ask(self, **order: Any) -> dict[str, Any]:
        """Send a command to a swarm and return its answer; raises RuntimeError when the process has ended."""
        self.write_line(orjson.dumps(order))
        answer = await self.line()
        if not answer:
            raise RuntimeError(f"{order['do']}: the process ended")
        result: dict[str, Any] = orjson.loads(answer)
        return result


@contextlib.asynccontextmanager
async def running(
    *command: str, environment: dict[str, str] | None = None, errors: Path | None = None
) -> AsyncIterator[Process]:
    """Run a process with pipes for its standard input and output, and end it on leaving.

    `errors` is the file for its standard error; without it the process shares ours.
    """
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
    """Return the command that runs a Python module of this repository."""
    return sys.executable, "-m", name, *map(str, arguments)


@contextlib.asynccontextmanager
async def swarm() -> AsyncIterator[Process]:
    """Run a process of `bench.swarm`, which has no clients yet."""
    async with running(*module("bench.swarm")) as process:
        yield process
