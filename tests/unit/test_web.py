"""Serving HTTP: a scope that leaves nothing behind, however it is left."""

from __future__ import annotations

import asyncio
import fcntl
import socket

import pytest
from starlette.applications import Starlette

from pollcast.services.serving import web

NOT_FOUND = b"HTTP/1.1 404 Not Found\r\n"


async def answer(address: tuple[str, int]) -> bytes:
    """The status line."""
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        line = await reader.readline()
    writer.close()
    return line


def bound(least: int = 1000) -> socket.socket:
    """A listening socket whose number is that one or the next that is free. What others of this process open and close
    meanwhile has lower ones."""
    with web.bind("127.0.0.1:0") as low:
        return socket.socket(fileno=fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, least))


async def served_until_a_failure(listener: socket.socket) -> None:
    async with web.serve_app(Starlette(), listener) as address:
        assert await answer(address) == NOT_FOUND
        raise ZeroDivisionError


async def test_who_serves_after_a_failure_is_heard_on_a_socket_of_the_same_number() -> None:
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
