"""The probe of a node's address: a dead node is one whose every address refuses."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

import pytest

from pollcast.services.coordination.failure_detector import refuses


@pytest.mark.parametrize(
    ("addresses", "dead"),
    [
        (("127.0.0.1",), True),
        (("127.0.0.2",), False),
        (("::1", "127.0.0.1"), True),  # localhost, on most systems
        (("::1", "127.0.0.2"), False),
        (("2001:db8::1", "127.0.0.1"), True),  # a host without IPv6 asks about one that has it
    ],
)
async def test_a_name_refuses_when_all_of_its_addresses_do(
    addresses: Sequence[str], dead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lookup(host: str, port: int, **_: Any) -> list[Any]:
        """Return the addresses of the test."""
        return [(None, None, None, "", (each, port)) for each in addresses]

    def connect(host: str, port: int) -> Any:
        """Connect as a host without a way to other hosts of IPv6 would."""
        if host.startswith("2001:"):
            raise OSError(101, "Network is unreachable")
        return opened(host, port)

    opened = asyncio.open_connection
    with socket.create_server(("127.0.0.2", 0)) as listener:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", lookup)
        monkeypatch.setattr(asyncio, "open_connection", connect)
        assert await refuses("some.test", listener.getsockname()[1]) is dead
