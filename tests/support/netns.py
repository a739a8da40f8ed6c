"""A network for tests of partitions: network namespaces on a switch. It needs root, Linux and iproute2.

Each host is a namespace with an address of its own. The tests themselves are connected to the switch and reach all
hosts. The switch is a bridge in a namespace of its own, where no firewall of the machine (Docker's, for example)
applies. A cut between two hosts is silent, like a broken switch: each sends its packets for the other to a hardware
address that does not exist. Connections stay open until one of their ends gives up.

Each host knows the names of all hosts by a file of its own, as `ip netns exec` puts it in the place of /etc/hosts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

FILES = Path("/etc/netns")
"""The directory in which iproute2 looks for the files of a namespace."""

IP = shutil.which("ip", path=os.environ["PATH"] + ":/usr/sbin:/sbin") or "ip"
NOWHERE = "02:00:00:00:00:99"
"""A hardware address that no host has."""


class Network:
    """A switch with hosts, which can be cut off from each other. `network` creates it."""

    def __init__(self) -> None:
        self._id = uuid.uuid4().hex[:6]
        self._switch = self._namespace("switch")
        self._subnet = f"10.{100 + os.getpid() % 100}.{int(self._id[:2], 16)}"
        self._numbers: dict[str, int] = {}
        self._made_files = not FILES.exists()

    def host(self, name: str) -> str:
        """Add a host and return its address."""
        number = self._numbers[name] = len(self._numbers) + 2
        namespace, port = self._namespace(name), f"port{number}"
        _ip("netns", "add", namespace)
        _ip("-n", self._switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _ip("-n", self._switch, "link", "set", port, "master", "switch", "up")
        _ip("-n", namespace, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            _ip("-n", namespace, "link", "set", device, "up")
        folder = FILES / namespace
        folder.mkdir(parents=True)
        (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")  # where none is, as it answers at once
        self._write_names()
        return self.address(name)

    def move(self, name: str) -> str:
        """Give the host its other address, which it returns. Nothing answers at the former one."""
        before, after = self.address(name), self.other_address(name)
        namespace = self._namespace(name)
        _ip("-n", namespace, "addr", "del", f"{before}/24", "dev", "eth0")
        _ip("-n", namespace, "addr", "add", f"{after}/24", "dev", "eth0")
        self._numbers[name] = int(after.rpartition(".")[2])
        self._write_names()
        return after

    def other_address(self, name: str) -> str:
        """Return the address that the host gets when it moves."""
        return f"{self._subnet}.{self._numbers[name] ^ 128}"

    def address(self, name: str) -> str:
        """Return the IP address of a host."""
        return f"{self._subnet}.{self._numbers[name]}"

    def on(self, name: str) -> list[str]:
        """Return the words to put before a command so that it runs on this host."""
        return [IP, "netns", "exec", self._namespace(name)]

    def cut(self, some: list[str], others: list[str]) -> None:
        """Stop all packets between `some` and `others`, in both directions."""
        for one, other in _pairs(some, others):
            self._lose(one, other)
            self._lose(other, one)

    def heal(self) -> None:
        """Let all packets pass again."""
        for one, other in combinations(self._numbers, 2):
            for here, there in ((one, other), (other, one)):
                _ip("-n", self._namespace(here), "neigh", "flush", "to", self.address(there), "nud", "all")

    def _write_names(self) -> None:
        names = {"localhost": "127.0.0.1"} | {name: self.address(name) for name in self._numbers}
        for host in self._numbers:
            # In place, because a process that runs has this very file mounted.
            with (FILES / self._namespace(host) / "hosts").open("w") as file:
                file.writelines(f"{address} {name}\n" for name, address in names.items())

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
            shutil.rmtree(FILES / self._namespace(name), ignore_errors=True)
        if self._made_files:
            with contextlib.suppress(OSError):
                FILES.rmdir()


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """Create a network and remove it on leaving. Processes that still run on its hosts lose their network then."""
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
