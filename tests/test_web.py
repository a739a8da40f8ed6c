"""Serving HTTP: a scope that leaves nothing behind, however it is left."""

from __future__ import annotations

import asyncio
import socket

import pytest
from starlette.applications import Starlette

from services import web

NOT_FOUND = b"HTTP/1.1 404 Not Found\r\n"


async def answer(address: tuple[str, int]) -> bytes:
    """The status line."""
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        line = await reader.readline()
    writer.close()
    return line


async def served_until_a_failure(listener: socket.socket) -> None:
    async with web.serve_app(Starlette(), listener) as address:
        assert await answer(address) == NOT_FOUND
        raise ZeroDivisionError


async def test_who_serves_after_a_failure_is_heard_on_a_socket_of_the_same_number() -> None:
    listener = web.bind("127.0.0.1:0")
    number = listener.fileno()
    with pytest.raises(ZeroDivisionError):
        await served_until_a_failure(listener)
    listener.close()
    again = web.bind("127.0.0.1:0")
    assert again.fileno() == number
    with again:
        async with web.serve_app(Starlette(), again) as address:
            assert await answer(address) == NOT_FOUND
