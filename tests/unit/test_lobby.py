"""The lobby: each connection in it has a deadline, and the oldest makes room for another."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from pollcast.services.process.occasional import SECONDS
from pollcast.services.serving.lobby import Lobby


class Guest:
    """A connection that records how it was closed."""

    def __init__(self) -> None:
        self.fate = ""

    def too_slow(self) -> None:
        self.fate = "too slow"

    def make_room(self) -> None:
        self.fate = "made room"


STEPS = st.lists(
    st.tuples(st.sampled_from(["enter", "leave", "again", "room", "time"]), st.integers(0, 20)), max_size=60
)


@given(steps=STEPS)
def test_no_connection_stays_beyond_its_deadline_and_the_oldest_makes_room_first(steps: list[tuple[str, int]]) -> None:
    now = 0.0
    lobby = Lobby(10, lambda: now)
    inside: dict[Guest, float] = {}  # with their deadlines, oldest first
    for step, number in steps:
        if step == "enter":
            guest = Guest()
            inside[guest] = now + number
            lobby.enter(guest, number)
        elif step == "room" and inside:
            oldest = next(iter(inside))
            del inside[oldest]
            lobby.make_room()
            assert oldest.fate == "made room"
        elif step == "time":
            now += number
            lobby.sweep(now)
            for guest in [guest for guest, deadline in inside.items() if deadline <= now]:
                del inside[guest]
                assert guest.fate == "too slow"
        elif inside:
            guest = list(inside)[number % len(inside)]
            del inside[guest]
            lobby.leave(guest)
            if step == "again":  # its next request
                inside[guest] = now + 5
                lobby.enter(guest, 5)
        assert len(lobby) == len(inside)
        assert not any(guest.fate for guest in inside)


def test_a_flood_of_connections_writes_a_line_a_minute() -> None:
    now = 0.0
    lobby = Lobby(10, lambda: now)
    with capture_logs() as lines:
        for _ in range(1000):
            lobby.enter(Guest(), 10)
            lobby.make_room()
        now += SECONDS
        lobby.enter(Guest(), 10)
        lobby.make_room()
    assert [line["times"] for line in lines] == [1, 1001]
