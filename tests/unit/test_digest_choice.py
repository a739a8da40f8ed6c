"""The choice between digests and rows (poller/digest_choice.py)."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from pollcast.poller.digest_choice import (
    DEARER,
    ENOUGH,
    FEW,
    FIRST_REST_SECONDS,
    LAST_REST_SECONDS,
    LEAST_ROUNDS,
    MANY,
    SMOOTH,
    DigestChoice,
    Tally,
)

POLLS = 100


def tally(changed: float = 0.0, rows: float = 20, seconds: float = 1.0, sent: float | None = None) -> Tally:
    """Return a round in which this share of the topics changed, with this many rows and seconds for each."""
    found = changed if sent is None else sent
    return Tally(POLLS, round(changed * POLLS), round(rows * POLLS), 0, round(found * POLLS), seconds * POLLS)


def after(choice: DigestChoice, rounds: int, round: Tally, start: float = 0.0) -> DigestChoice:
    for n in range(rounds):
        choice.record(round, start + n)
    return choice


def test_digests_begin_where_results_are_large_and_rarely_change() -> None:
    assert not after(DigestChoice(), LEAST_ROUNDS - 1, tally()).digests
    assert after(DigestChoice(), LEAST_ROUNDS, tally()).digests
    assert not after(DigestChoice(), 100, tally(rows=1)).digests
    assert not after(DigestChoice(), 100, tally(changed=1)).digests


def test_a_topic_alone_needs_as_many_polls() -> None:
    choice = DigestChoice()
    for n in range(7):
        choice.record(Tally(1, 0, 20, 0, 0, 1.0), n)
        assert not choice.digests
    choice.record(Tally(1, 0, 20, 0, 0, 1.0), 7)
    assert choice.digests


def test_digests_end_when_results_become_small_or_change_with_most_polls() -> None:
    for round in (tally(rows=1), tally(changed=1)):
        choice = after(DigestChoice(), LEAST_ROUNDS, tally())
        assert choice.digests
        assert not after(choice, 3 * SMOOTH, round).digests


@given(st.lists(st.tuples(st.floats(FEW + 0.01, MANY - 0.01), st.floats(2.1, ENOUGH - 0.1)), min_size=1, max_size=50))
def test_between_the_bounds_the_way_stays_as_it_is(rounds: list[tuple[float, float]]) -> None:
    for begun in (False, True):
        choice = after(DigestChoice(), LEAST_ROUNDS if begun else 0, tally())
        assert choice.digests == begun
        for at, (changed, rows) in enumerate(rounds):
            choice.record(tally(changed, rows), at)
        assert choice.digests == begun


def test_one_round_in_which_everything_changes_does_not_end_digests() -> None:
    choice = after(DigestChoice(), LEAST_ROUNDS, tally())
    for at in range(100):
        choice.record(tally(changed=float(at % 10 == 0)), at)
        assert choice.digests


def test_digests_that_are_dearer_end_for_a_while_that_doubles() -> None:
    choice, now, ends = DigestChoice(), 0.0, list[float]()
    for _ in range(2000):
        before = choice.digests
        choice.record(tally(seconds=DEARER + 0.1 if choice.digests else 1.0), now)
        if before and not choice.digests:
            ends.append(now)
        now += 1.0
    gaps = [b - a for a, b in itertools.pairwise(ends)]
    assert gaps[0] < FIRST_REST_SECONDS + 3 * SMOOTH
    assert all(b > 1.5 * a for a, b in itertools.pairwise(gaps) if b < LAST_REST_SECONDS)
    assert gaps[-1] >= LAST_REST_SECONDS / 2


def test_rounds_that_send_many_rows_do_not_show_what_digests_cost() -> None:
    choice = after(DigestChoice(), LEAST_ROUNDS, tally())
    after(choice, 1, tally(sent=1, seconds=9))
    assert after(choice, SMOOTH, tally(seconds=0.5)).digests


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 50), st.floats(0.1, 10), st.booleans()), max_size=300))
def test_the_way_changes_seldom_whatever_polls_show(rounds: list[tuple[float, float, float, bool]]) -> None:
    choice, changes, errors = DigestChoice(), 0, 0
    for at, (changed, rows, seconds, fails) in enumerate(rounds):
        before = choice.digests
        if fails and before:
            choice.record_error(at)
            errors += 1
        else:
            choice.record(tally(changed, rows, seconds), at)
        changes += before != choice.digests
        assert not (fails and before and choice.digests)
    assert changes <= len(rounds) / LEAST_ROUNDS + errors + 1
