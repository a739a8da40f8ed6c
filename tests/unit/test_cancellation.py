"""A task that is cancelled ends, also when it was handling an error of its own at that moment."""

from __future__ import annotations

import asyncio

import pytest

from pollcast.services.process.cancellation import heeding_cancellation


class GoingOn:
    """A task that goes on when its group of tasks fails, one of which is slow to end."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.is_ending = asyncio.Event()
        self.failures = 0

    async def run(self) -> None:
        """Fail, and go on."""
        try:
            with heeding_cancellation(BaseExceptionGroup):
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._slow_to_end())
                    await asyncio.sleep(0)
                    raise LookupError
        except* LookupError:
            self.failures += 1

    async def _slow_to_end(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.is_ending.set()
            await self.release.wait()


@pytest.mark.parametrize("cancelled", [True, False])
async def test_a_task_that_is_cancelled_while_its_group_fails_does_not_go_on(cancelled: bool) -> None:
    going_on = GoingOn()
    task = asyncio.create_task(going_on.run())
    await going_on.is_ending.wait()
    if cancelled:
        task.cancel()
        await asyncio.sleep(0)
    going_on.release.set()
    await asyncio.wait([task])
    assert task.cancelled() == cancelled
    assert going_on.failures == (0 if cancelled else 1)


async def test_a_cancellation_that_something_swallows_is_raised_at_the_end_of_the_scope() -> None:
    async def swallow() -> None:
        with heeding_cancellation(TimeoutError):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return

    task = asyncio.create_task(swallow())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
