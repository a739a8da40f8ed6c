"""Serving HTTP: the scope stops listening, even when it ends with an error."""

from __future__ import annotations

import asyncio
import fcntl
import socket

import pytest
from starlette.applications import Starlette

from pollcast.services.serving import web

NOT_FOUND = b"HTTP/1.1 404 Not Found\r\n"


async def answer(address: tuple[str, int]) -> bytes:
    """Send a request and return the status line of the answer."""
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        line = await reader.readline()
    writer.close()
    return line


def bound(least: int = 1000) -> socket.socket:
    """Return a listening socket whose file descriptor is the first free one from `least` on.

    Descriptors that other parts of the process open meanwhile are lower.
    """
    with web.bind("127.0.0.1:0") as low:
        return socket.socket(fileno=fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, least))


async def served_until_a_failure(listener: socket.socket) -> None:
    """Serve on the socket, then fail inside the scope."""
    async with web.serve_app(Starlette(), listener) as address:
        assert await answer(address) == NOT_FOUND
        raise ZeroDivisionError


async def test_after_a_failure_a_new_server_is_reached_on_a_socket_with_the_same_descriptor() -> None:
    listener = bound()
    number = listener.fileno()
    with pytest.raises(ZeroDivisionError):
        await served_until_a_failure(listener)
    listener.close()
    again = bound(number)
    assert again.fileno() == number
    with again:
        async with web.serve_app(Starlette(), again) as address:
            assert await answer(address) == NOT_FOUND
