"""Ports of this machine on which embedded servers and services can listen."""

from __future__ import annotations

import random
import socket

from pollcast.services.errors import PollcastError
from pollcast.services.process.settings import join_host_port

# Below the range from which systems take the ports of outgoing connections, so that a server that is down for a moment
# finds its port free again.
PORTS = range(20_000, 32_000)


class PortTaken(PollcastError):
    """Another process listens on that port."""


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port(*, wanted: int | None = None) -> int:
    """A port of 127.0.0.1 on which nobody listens: `wanted` if that is free, else any."""
    if wanted is not None and is_free(wanted):
        return wanted
    for port in random.sample(PORTS, 200):
        if is_free(port):
            return port
    raise PortTaken("no free port was found")


def require_free(port: int, what: str) -> None:
    """PortTaken, which says for `what` the port is wanted, when somebody listens on it already."""
    if not is_free(port):
        raise PortTaken(f"{what} can't listen on {join_host_port('127.0.0.1', port)}: another process does")
