"""The login of a process at etcd: one at a time, however many calls wait for it.

A login costs etcd a tenth of a second of CPU, on purpose (bcrypt), so a restarted etcd can be kept busy by nothing else
than its clients' logins. All calls of a process therefore wait for the same login, which goes on when they give up. A
token that etcd refuses is forgotten only while it is still the present one: a call that was sent with an older one does
not cause another login. When etcd has authentication turned off, calls are sent without a token, and the log says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import grpc.aio

from pollcast.services.coordination import metrics
from pollcast.services.process import logs

log = logs.get_logger("etcd")

LOGIN_SECONDS = 10.0
"""Deadline of one Authenticate call, in seconds."""

REFUSED_SECONDS = 1.0
"""Time for which a refused login is not repeated, in seconds."""

TOKEN_REFUSED = ("invalid auth token", "revision of auth store is old", "user name is empty")
"""Texts of errors that a new login may repair."""

TURNED_OFF = "authentication is not enabled"
"""Text of the error of a login at an etcd that has no users."""

Authenticate = Callable[[float], Awaitable[str]]
"""A function that logs in within so many seconds and returns the token."""


class Login:
    """The present token, and the login that is under way, if there is one."""

    def __init__(self, authenticate: Authenticate) -> None:
        """`authenticate` raises AioRpcError."""
        self._authenticate = authenticate
        self._token: str | None = None
        self._turned_off = False
        self._under_way: asyncio.Task[None] | None = None
        self._refusal: tuple[float, grpc.aio.AioRpcError] | None = None  # the loop time until which it counts

    async def token(self) -> str | None:
        """Return the present token after logging in if need be; None when authentication is turned off. Raises
        AioRpcError when the login fails."""
        if self._token is None and not self._turned_off:
            if self._refusal is not None and asyncio.get_running_loop().time() < self._refusal[0]:
                raise self._refusal[1]
            if self._under_way is None:
                self._under_way = asyncio.create_task(self._log_in(), name="login at etcd")
                self._under_way.add_done_callback(self._done)
            await asyncio.shield(self._under_way)
        return self._token

    def refused(self, token: str | None, details: str) -> bool:
        """Note that etcd refused a call with this token. Return whether the call should be repeated with another."""
        if not any(text in details for text in TOKEN_REFUSED):
            return False
        if token == self._token:
            self._token, self._turned_off = None, False
        return True

    async def close(self) -> None:
        """End the login that is under way."""
        if self._under_way is not None:
            self._under_way.cancel()
            await asyncio.wait({self._under_way})

    async def _log_in(self) -> None:
        try:
            self._token = await self._authenticate(LOGIN_SECONDS)
        except grpc.aio.AioRpcError as error:
            if TURNED_OFF not in (error.details() or ""):
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    metrics.LOGINS.inc()
                    self._refusal = asyncio.get_running_loop().time() + REFUSED_SECONDS, error
                raise
            log.warning("etcd has authentication turned off: going on without the user of the settings")
            self._turned_off = True
        metrics.LOGINS.inc()

    def _done(self, login: asyncio.Task[None]) -> None:
        self._under_way = None
        if not login.cancelled():
            login.exception()  # those that wait for it raise it
