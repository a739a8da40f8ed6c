"""Worker processes: a parent that keeps several processes of one service running.

`supervise` is the whole life of the parent. It starts each worker's command in a session of its own, starts a worker
again that ends, after a delay that grows while it ends soon after its start, passes SIGHUP on, and on `stop` asks all
of them to drain and waits for them. A worker that ends with the status of wrong settings would end so again, so it ends
all. When the parent is killed, the kernel asks the workers to drain (services/process/leash.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pollcast.services.errors import ConfigurationInvalid, PollcastError
from pollcast.services.process import logs
from pollcast.services.process.leash import leash_command

log = logs.get_logger("workers")

FIRST_DELAY_SECONDS = 0.1
"""Delay before a worker is started again that had served for a while, in seconds."""

MAX_DELAY_SECONDS = 5.0
"""Maximum delay before a worker is started again, in seconds."""

STEADY_SECONDS = 10.0
"""Time after which a worker's start counts as a success, in seconds."""

STOP_SECONDS = 30.0
"""Time that a worker has to drain before it is killed, in seconds."""


class WorkersFailed(PollcastError):
    """A worker did not end as it should."""


class WorkersMisconfigured(WorkersFailed):
    """The workers have wrong settings, which they log."""

    exit = ConfigurationInvalid.exit


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker: its name for the log, its command, and its whole environment."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]


def restart_delay(early_ends: int) -> float:
    """Return the seconds before a worker is started again after it has ended early so many times in a row."""
    return min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(early_ends, 16))


class Hangups:
    """The running workers, to which the parent passes its SIGHUP on."""

    def __init__(self) -> None:
        self._processes: set[Process] = set()

    def __call__(self) -> None:
        """Send SIGHUP to every running worker."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGHUP)

    @contextlib.contextmanager
    def reaching(self, process: Process) -> Iterator[None]:
        """Include the process inside the scope."""
        self._processes.add(process)
        try:
            yield
        finally:
            self._processes.discard(process)


async def supervise(workers: Sequence[Worker], stop: asyncio.Event, hangups: Hangups | None = None) -> None:
    """Keep the workers running until `stop` is set, then drain them. `hangups` passes SIGHUP on to them.

    Raises WorkersMisconfigured when a worker has wrong settings, and WorkersFailed when one does not end with status 0.
    """
    async with asyncio.TaskGroup() as tasks:
        hangups = hangups or Hangups()
        keepers = [tasks.create_task(_keep(worker, stop, hangups), name=worker.name) for worker in workers]
    ended = {worker.name: keeper.result() for worker, keeper in zip(workers, keepers, strict=True)}
    failed = {name: status for name, status in ended.items() if status != 0}
    if failed:
        kind = WorkersMisconfigured if ConfigurationInvalid.exit in failed.values() else WorkersFailed
        raise kind(f"exit status by worker: {failed}")


async def _keep(worker: Worker, stop: asyncio.Event, hangups: Hangups) -> int:
    """Run a worker until `stop`, and set `stop` when its settings are wrong. Return its last exit status."""
    early_ends = 0
    now = asyncio.get_running_loop().time
    while True:
        began = now()
        process = await asyncio.create_subprocess_exec(  # noqa: TID251 - this process runs no gRPC
            *leash_command(signal.SIGTERM),
            *worker.command,
            env=worker.environment,
            stdin=DEVNULL,
            start_new_session=True,
        )
        log.info("worker started", worker=worker.name, pid=process.pid)
        with hangups.reaching(process):
            status = await _until_over(process, stop)
        if stop.is_set():
            return status
        log.error("worker ended, starting another", worker=worker.name, pid=process.pid, status=status)
        if status == ConfigurationInvalid.exit:
            stop.set()
            return status
        early_ends = early_ends + 1 if now() - began < STEADY_SECONDS else 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(restart_delay(early_ends)):
                await stop.wait()
                return 0


async def _until_over(process: Process, stop: asyncio.Event) -> int:
    """Return the exit status of the process, which is asked to drain on `stop`, and killed with the caller."""
    ended = asyncio.ensure_future(process.wait())
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([ended, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            process.terminate()
            await asyncio.wait([ended], timeout=STOP_SECONDS)
        if not ended.done():
            log.error("worker does not end, killing it", pid=process.pid)
            process.kill()
        return await ended
    finally:
        stopped.cancel()
        if not ended.done():
            process.kill()
