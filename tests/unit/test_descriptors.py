"""The division of a process's file descriptors, and raising their limit."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.services.process.descriptors import LOBBY, RESERVE, Room, connections_within, room


@given(files=st.integers(128, 2**20), wanted=st.integers(1, 100_000))
def test_clients_waiting_connections_and_the_reserve_always_have_their_places(files: int, wanted: int) -> None:
    given_room = room(files, wanted)
    assert 1 <= given_room.clients <= wanted
    assert given_room.clients < given_room.connections <= files - RESERVE[0]
    assert 1 <= given_room.grpc <= max(wanted, RESERVE[1] // 4)
    assert given_room.connections + given_room.grpc <= files - RESERVE[0] * 3 // 4
    if files - given_room.connections > RESERVE[1]:  # more than enough: the settings decide
        assert given_room.clients == wanted
        assert given_room.connections >= wanted + LOBBY


@given(few=st.integers(64, 2**20), more=st.integers(0, 2**20), wanted=st.integers(1, 100_000))
def test_more_files_never_mean_fewer_clients(few: int, more: int, wanted: int) -> None:
    assert room(few, wanted).clients <= room(few + more, wanted).clients


@pytest.mark.parametrize(
    ("files", "wanted", "expected"),
    [
        (256, 10_000, Room(176, 192, 16)),
        (1024, 10_000, Room(752, 768, 64)),
        (4096, 10_000, Room(3056, 3072, 256)),
        (20_000, 10_000, Room(10_000, 12_500, 6476)),
        (resource.RLIM_INFINITY, 40, Room(40, 296, 256)),
    ],
)
def test_the_room_of_common_limits(files: int, wanted: int, expected: Room) -> None:
    assert room(files, wanted) == expected


def test_even_a_tiny_limit_leaves_a_connection() -> None:
    assert connections_within(3) == 2
    assert room(3, 10) == Room(1, 2, 1)


def test_a_service_raises_its_soft_limit_to_the_hard_one() -> None:
    code = "import resource\nfrom pollcast.services.process import descriptors as d\n"
    code += "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))\n"
    code += "print(d.raise_limit(), d.limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["200", "200", "200", "200"]
