"""Cancellations that something inside a task would swallow."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heeding_cancellation(*errors: type[BaseException]) -> Iterator[None]:
    """Raise CancelledError when the task was cancelled inside the scope and the scope ends otherwise: normally, or by
    one of these errors.

    Two things swallow a cancellation. grpc.aio starts a stream in a task of its own and cancels the call instead of the
    reader, which sees only its end when the call ends by itself at that moment. And before Python 3.13 an
    asyncio.TaskGroup that is already failing raises its errors only. A loop that catches them and tries again would go
    on for ever, and whoever cancelled it would wait for ever.

    Around a TaskGroup use it only where the body itself ends by an error: a task that fails after the body has ended
    looks like a cancellation.
    """
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    try:
        yield
    except errors as error:
        if task.cancelling() > before:
            raise asyncio.CancelledError from error
        raise
    if task.cancelling() > before:
        raise asyncio.CancelledError
