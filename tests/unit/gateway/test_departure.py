"""A gateway that stops serves on until load balancers have noticed, and waits for nobody else."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.gateway.departure import AUTOMATIC_SECONDS, MAX_SOURCES, Departure, HealthChecks

STOPPED = 1000.0


def checks(*asked: float, host: str = "balancer", into: HealthChecks | None = None) -> HealthChecks:
    """Return checks after questions at these times."""
    found = HealthChecks() if into is None else into
    for at in asked:
        found.asked(host, at)
    return found


def every(seconds: float, until: float = STOPPED) -> list[float]:
    """Return the times of questions at this interval, the last one just before `until`."""
    return [until - 0.1 - seconds * number for number in reversed(range(12))]


@given(st.floats(0.3, 5.0), st.floats(1.0, 1.4))
def test_the_next_question_of_a_load_balancer_is_waited_for(interval: float, late: float) -> None:
    assert checks(*every(interval)).expected_until() >= STOPPED - 0.1 + interval * late


@given(st.lists(st.floats(0.0, 5.0), min_size=2, max_size=6), st.floats(0.0, 5.0))
def test_several_load_balancers_of_one_host_are_waited_for_until_each_has_asked(
    phases: list[float], stopped: float
) -> None:
    times = sorted(20.0 + phase + 5.0 * number for phase in phases for number in range(6))
    stop = 40.0 + stopped
    found = checks(*(at for at in times if at <= stop))
    for at in (at for at in times if stop < at <= stop + 5.0):
        assert found.expected_until() >= at
        checks(at, into=found)


@pytest.mark.parametrize(
    "asked",
    [
        [],
        [STOPPED - 1],
        [STOPPED - 10, STOPPED - 1, STOPPED - 0.5],
        [STOPPED - 0.1 * number for number in range(15, 0, -1)],  # until it was ready, just now
        [STOPPED - 20 + 0.1 * number for number in range(60)],  # until it was ready
        [*[STOPPED - 12 + 0.1 * number for number in range(60)], STOPPED - 3],  # and once afterwards
        [*[STOPPED - 12 + 0.1 * number for number in range(60)], STOPPED - 3, STOPPED - 1],
        [STOPPED - 100 * number for number in range(5, 0, -1)],
    ],
)
def test_questions_without_a_rhythm_are_not_waited_for(asked: list[float]) -> None:
    assert checks(*asked).expected_until() <= STOPPED


def test_a_load_balancer_is_waited_for_whoever_else_asks() -> None:
    found = checks(*every(5.0))
    checks(*[STOPPED - 0.05 * number for number in range(20, 0, -1)], host="script", into=found)
    for number in range(10 * MAX_SOURCES):
        checks(STOPPED - 20 + 0.01 * number, host=f"passer-by {number}", into=found)
    assert found.expected_until() > STOPPED + 5


class Clock:
    """A clock that a departure reads."""

    def __init__(self) -> None:
        self.now = STOPPED

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("set_to", "asked", "expected"),
    [
        (None, every(5.0), AUTOMATIC_SECONDS),
        (None, every(0.5), AUTOMATIC_SECONDS),
        (None, every(0.5, until=STOPPED - 2), 0.0),
        (None, [], 0.0),
        (20.0, [], 20.0),
        (0.0, every(5.0), 0.0),
    ],
)
def test_a_gateway_serves_on_for_load_balancers_or_for_the_time_that_is_set(
    set_to: float | None, asked: list[float], expected: float
) -> None:
    clock = Clock()
    departure = Departure(set_to, asyncio.Event(), clock)
    for at in asked:
        clock.now = at
        departure.asked("balancer")
    clock.now = STOPPED
    assert departure.seconds() == expected


async def test_a_gateway_closes_clients_after_that_time() -> None:
    stop = asyncio.Event()
    departure = Departure(None, stop, Clock())
    assert (departure.begun, departure.closing) == (False, False)
    stop.set()
    assert (departure.begun, departure.closing) == (True, False)
    await departure.wait()
    assert departure.closing
