"""The renewal of a connection's token, while the connection lasts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from pollcast_client.tokens import AGAIN_SECONDS, TokenSource, renew_in, token_of

NO_TOPIC_SECONDS = 1.0
"""Pause before a new token is sent again when no topic was joined to carry it, in seconds."""

_log = logging.getLogger("pollcast_client")


@contextlib.asynccontextmanager
async def renewing(
    source: TokenSource | None, token: str | None, send: Callable[[str], Awaitable[bool]]
) -> AsyncIterator[None]:
    """Renew a token from its source, each time some time before it expires, until the body ends.

    `send` sends a new token, or returns False when it cannot be sent now. Does nothing when the source is no function.
    """
    if token is None or not callable(source):
        yield
        return
    task = asyncio.create_task(_renew(source, token, send))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))  # which heeds a cancellation of the caller, unlike a suppressed CancelledError
        if not task.cancelled():
            task.result()


async def _renew(source: TokenSource, token: str, send: Callable[[str], Awaitable[bool]]) -> None:
    while (pause := renew_in(token, time.time())) is not None:
        await asyncio.sleep(pause)
        fresh = await _next(source, token)
        while not await send(fresh):  # noqa: ASYNC110 - a topic may be joined at any time
            await asyncio.sleep(NO_TOPIC_SECONDS)
        token = fresh


async def _next(source: TokenSource, token: str) -> str:
    """Return the first other token from the source. A source that fails is called again: the connection lasts until its
    token expires."""
    while True:
        [fresh] = await asyncio.gather(token_of(source), return_exceptions=True)
        if isinstance(fresh, str) and fresh != token:
            return fresh
        why = fresh if isinstance(fresh, BaseException) else None
        _log.warning("The function for tokens returned no new one; it is called again.", exc_info=why)
        await asyncio.sleep(AGAIN_SECONDS)
