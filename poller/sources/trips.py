"""The part of a trip that is the same for all kinds whose server answers statements in their order.

A session sends the whole trip, and then reads one answer after the other: `in_turn` takes the time of each, and ends
the trip when nothing more can be read, or it has taken as long as one statement may. `blamed` tells whose fault an
error is: while the connection works, it is the statement's, whatever the server says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from pollcast.poller.sources.answer import Answer
from pollcast.poller.sources.guard import GRACE_SECONDS, Guard
from pollcast.poller.sources.outcome import LostConnection, Outcome, Outgrown, Trip
from pollcast.poller.sources.poll_error import PollError, Scope
from pollcast.poller.sources.statement import Statement

_CANCELED_BEFORE = 0.9
"""Share of the timeout below which a canceled statement was not canceled by the timeout."""


class Classify(Protocol):
    """A function that returns the poll error for an error of the server."""

    def __call__(self, *, connected: bool, timed_out: bool) -> PollError:
        """`connected`: the connection has survived it. `timed_out`: the statement has taken as long as it may."""


async def in_turn(
    trip: Trip,
    guard: Guard,
    read: Callable[[Statement, Answer], Awaitable[Outcome]],
    more: Callable[[Outcome], bool],
) -> list[Outcome]:
    """Read the answers to the trip's statements, and return the outcomes of the first ones, or of all.

    `read` receives the answer to the next statement; before the first it sends the trip, and calls `guard.allow` when
    the server has begun. It raises nothing. `more` tells whether the next answer can be read after an outcome. When it
    would be true after the last outcome that is returned, the trip has taken too long, and has to be left.
    """
    loop, answers = asyncio.get_running_loop(), trip.answers
    outcomes: list[Outcome] = []
    sent = ended = loop.time()
    with guard.allowing(GRACE_SECONDS):
        for statement, answer in zip(trip.statements, answers, strict=True):
            before = loop.time()
            outcomes.append(await read(statement, answer))
            ended = loop.time()
            answer.seconds = ended - (min(guard.begun, ended) if answer is answers[0] else before)
            if answer is answers[-1] or ended - sent > trip.seconds or not more(outcomes[-1]):
                break
            guard.allow(trip.seconds + GRACE_SECONDS)
    trip.share_latency(len(outcomes), ended - sent)
    return outcomes


def timed_out(trip: Trip, guard: Guard) -> bool:
    """Return whether a statement that ends now may have taken all of its time.

    The time counts from when the trip was sent: what the server begins and ends is noticed late on a busy machine.
    """
    return trip.limited or asyncio.get_running_loop().time() - guard.started >= trip.seconds * _CANCELED_BEFORE


def blamed(
    trip: Trip, guard: Guard, classify: Classify, *, lost: bool, silently: bool, canceled: bool
) -> PollError | LostConnection | Outgrown:
    """Return the outcome of a statement that ended with an error.

    `lost` tells whether the connection has not survived it, `silently` whether it ended without a word of the server,
    and `canceled` whether the error is that of a canceled statement.
    """
    late = timed_out(trip, guard)
    if lost or guard.broke:
        found = classify(connected=False, timed_out=late)
        if guard.renewed:  # the server had just begun, so if this happens twice the statement is at fault
            found = replace(found, scope=Scope.TOPIC_OR_SIZE if guard.broke else Scope.TOPIC)
        return LostConnection(found, guard.broke or (guard.renewed and silently))
    if canceled and late and trip.outgrows and guard.renewed:
        return Outgrown.OUTGROWN
    return classify(connected=guard.renewed, timed_out=late)
