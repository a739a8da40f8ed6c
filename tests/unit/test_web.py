"""Serving HTTP: the scope stops listening, even when it ends with an error."""

from __future__ import annotations

import asyncio
import fcntl
import socket
from typing import Any

import pytest
from starlette.applications import Starlette

from pollcast.services.errors import CantListen
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


def reached(address: tuple[str, int]) -> bool:
    """Return whether somebody listens on this address."""
    try:
        socket.create_connection(address, timeout=2).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("address", "ipv4", "ipv6"),
    [
        ("[::]:0", True, True),
        ("0.0.0.0:0", True, False),
        ("[::1]:0", False, True),
        ("127.0.0.1:0", True, False),
        ("localhost:0", True, False),  # also where the system's first address of localhost is ::1
        ("only-ipv6.test:0", False, True),
        ("no-ipv4-here.test:0", False, True),
    ],
)
@pytest.mark.parametrize("shared", [False, True])
def test_an_address_of_both_kinds_serves_both_and_a_name_its_own(
    address: str, ipv4: bool, ipv6: bool, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookup = socket.getaddrinfo

    def names(host: str, port: int, **how: Any) -> Any:
        """Look up names of the test as a machine with IPv6 would."""
        known = {
            "localhost": ("::1", "127.0.0.1"),
            "only-ipv6.test": ("::1",),
            "no-ipv4-here.test": ("192.0.2.1", "::1"),
        }
        addresses = known.get(host, (host,))
        return [each for one in addresses for each in lookup(one, port, **how)]

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", names)
        listener = web.bind(address, shared=shared)
    with listener:
        _, port = web.address_of(listener)
        assert (reached(("127.0.0.1", port)), reached(("::1", port))) == (ipv4, ipv6)


def test_a_name_that_does_not_exist_is_reported() -> None:
    with pytest.raises(CantListen, match=r"can't serve HTTP on no-such-host\.invalid:80"):
        web.bind("no-such-host.invalid:80")


def test_an_address_that_this_machine_lacks_is_refused_with_what_to_set() -> None:
    with pytest.raises(CantListen) as refused:
        web.bind("192.0.2.1:4000")
    assert str(refused.value) == (
        "can't serve HTTP on 192.0.2.1:4000: this machine has no such address. Set POLLCAST_HTTP to one of its own, or "
        "to [::]:4000 for all"
    )
    with (
        web.bind("127.0.0.1:0") as taken,
        pytest.raises(CantListen, match=r"127\.0\.0\.1:\d+: Address already in use$"),
    ):
        web.bind("127.0.0.1:{1}".format(*web.address_of(taken)))
