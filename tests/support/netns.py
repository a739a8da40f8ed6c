"""A network that can be cut: namespaces on a switch, as root on Linux with iproute2.

Each host is a namespace with an address of its own; the tests themselves are on the switch as well and reach all of
them. The switch is a bridge in a namespace too, where no firewall of the machine (Docker's, say) applies. A cut between
two hosts is silent, as a broken switch is: each sends its packets for the other to a hardware address that nobody has.
Connections stay open until somebody gives them up.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from itertools import combinations

IP = shutil.which("ip", path=os.environ["PATH"] + ":/usr/sbin:/sbin") or "ip"
NOWHERE = "02:00:00:00:00:99"


class Network:
    """Made by `network`."""

    def __init__(self) -> None:
        self._id = uuid.uuid4().hex[:6]
        self._switch = self._namespace("switch")
        self._subnet = f"10.{100 + os.getpid() % 100}.{int(self._id[:2], 16)}"
        self._numbers: dict[str, int] = {}

    def host(self, name: str) -> str:
        """Adds a host, and returns its address."""
        number = self._numbers[name] = len(self._numbers) + 2
        namespace, port = self._namespace(name), f"port{number}"
        _ip("netns", "add", namespace)
        _ip("-n", self._switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _ip("-n", self._switch, "link", "set", port, "master", "switch", "up")
        _ip("-n", namespace, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            _ip("-n", namespace, "link", "set", device, "up")
        return self.address(name)

    def address(self, name: str) -> str:
        return f"{self._subnet}.{self._numbers[name]}"

    def on(self, name: str) -> list[str]:
        """What to put before a command that should run on this host."""
        return [IP, "netns", "exec", self._namespace(name)]

    def cut(self, some: list[str], others: list[str]) -> None:
        """Nothing passes between any of some and any of the others, in either direction."""
        for one, other in _pairs(some, others):
            self._lose(one, other)
            self._lose(other, one)

    def heal(self) -> None:
        """Everything passes again."""
        for one, other in combinations(self._numbers, 2):
            for here, there in ((one, other), (other, one)):
                _ip("-n", self._namespace(here), "neigh", "flush", "to", self.address(there), "nud", "all")

    def _lose(self, here: str, there: str) -> None:
        _ip(
            "-n", self._namespace(here), "neigh", "replace", self.address(there), "lladdr", NOWHERE,
            "nud", "permanent", "dev", "eth0",
        )  # fmt: skip

    def _namespace(self, name: str) -> str:
        return f"pc{self._id}-{name}"

    def _up(self) -> None:
        mine = f"pc{self._id}"
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "switch", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "switch", "up")
        _ip("link", "add", mine, "type", "veth", "peer", "name", "port1", "netns", self._switch)
        _ip("-n", self._switch, "link", "set", "port1", "master", "switch", "up")
        _ip("addr", "add", f"{self._subnet}.1/24", "dev", mine)
        _ip("link", "set", mine, "up")

    def _down(self) -> None:
        _ip("link", "del", f"pc{self._id}")
        for name in (*self._numbers, "switch"):
            _ip("netns", "del", self._namespace(name))


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """A scope: all of it is gone afterwards, with whatever still runs there left without a network."""
    made = Network()
    made._up()
    try:
        yield made
    finally:
        made._down()


def _pairs(some: list[str], others: list[str]) -> Iterator[tuple[str, str]]:
    return ((one, other) for one in some for other in others)


def _ip(*arguments: str) -> None:
    subprocess.run([IP, *arguments], check=True)
