"""The order of the tests in `make test`, and which of them one process runs together.

A process takes a file at a time, or all files of a folder that share a cluster. Tests of servers wait a lot, and those
in tests/unit compute, so that both are mixed: then the processes together need all cores all the time. The files that
take longest come first: otherwise one process would be left with them when all others are done.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from xdist.scheduler import LoadFileScheduling

SERVERS: Final = ("faults", "browser", "cluster", "conformance")
"""The folders of tests with servers, those first whose files take longest. All others are in `unit`."""

TOGETHER: Final = ("tests/cluster/attacks/", "tests/cluster/clients/", "tests/cluster/delivery/")
"""Folders whose files share a cluster: fixtures of the scope `package`."""

TAIL: Final = 0.1
"""Share of tests/unit that comes when no test of servers is left to begin: files of a second or two."""


def piece(nodeid: str) -> str:
    """Return the name of what is run together with this test: its file or its folder."""
    folder = next((folder for folder in TOGETHER if nodeid.startswith(folder)), None)
    return folder or nodeid.partition("::")[0]


def places(nodeids: Iterable[str]) -> dict[str, float]:
    """Return the place of each piece of these tests in the order, from 0 to 1."""
    pieces = list(dict.fromkeys(map(piece, nodeids)))
    servers = sorted(
        (each for each in pieces if _folder(each) in SERVERS), key=lambda each: SERVERS.index(_folder(each))
    )
    others = [each for each in pieces if _folder(each) not in SERVERS]
    found = {each: number / len(servers) * (1 - TAIL) for number, each in enumerate(servers)}
    return found | {each: (number + 1) / len(others) for number, each in enumerate(others)}


def _folder(piece: str) -> str:
    return piece.split("/", 2)[1]


class Scheduling(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
    """The distribution of the tests to processes, a piece at a time."""

    def _split_scope(self, nodeid: str) -> str:
        """Return the piece of a test."""
        return piece(nodeid)
