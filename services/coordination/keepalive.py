"""The lease keep-alive stream: renews leases, one at a time, on a stream that stays open between renewals."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc.aio
from etcd3 import etcdrpc

from pollcast.services.coordination.endpoints import HAS_LEADER, Endpoint, Endpoints, metadata
from pollcast.services.process.cancellation import heeding_cancellation


class KeepAliveStream:
    """One LeaseKeepAlive stream, opened on first use and again after a failure. `on_header` receives the header of
    every response."""

    def __init__(self, endpoints: Endpoints, on_header: Callable[[Any], None]) -> None:
        self._endpoints = endpoints
        self._on_header = on_header
        self._open: tuple[Endpoint, Any] | None = None
        self._token: str | None = None  # the one that the stream was opened with
        self._turn = asyncio.Lock()

    async def renew(self, lease: int, timeout: float) -> float:
        """Renew the lease and return its remaining time in seconds, 0 when etcd reports that it is gone. Raises
        EtcdRefused when no endpoint responds within `timeout` seconds: renewing twice does no harm, so the result is
        never unknown."""
        async with self._turn:
            deadline = asyncio.get_running_loop().time() + timeout
            attempt = 0
            while True:
                endpoint = self._endpoints.current
                if self._open is not None and self._open[0] is not endpoint:
                    self.close()
                try:
                    async with asyncio.timeout_at(self._endpoints.attempt_deadline(deadline, timeout)):
                        return await self._renew_once(endpoint, lease)
                except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError) as error:
                    attempt += 1
                    await self._endpoints.prepare_retry(error, attempt, deadline, endpoint, self._token)

    def close(self) -> None:
        """Cancel the open stream, if there is one."""
        if self._open is not None:
            self._open[1].cancel()
            self._open = None

    async def _renew_once(self, endpoint: Endpoint, lease: int) -> float:
        answered = False
        try:
            if self._open is None:
                self._token = await self._endpoints.token()
                self._open = endpoint, endpoint.lease.LeaseKeepAlive(metadata=metadata(self._token, HAS_LEADER))
            call = self._open[1]
            with heeding_cancellation(grpc.aio.AioRpcError, TimeoutError):
                await call.write(etcdrpc.LeaseKeepAliveRequest(ID=lease))
                response = await call.read()
                if response is grpc.aio.EOF:
                    raise TimeoutError(f"the keep-alive stream ended: {await call.details()}")
            answered = True
        finally:
            if not answered:  # a late response must not be taken for that of the next renewal
                self.close()
        endpoint.answered()
        self._on_header(response.header)
        return max(0.0, float(response.TTL))
