"""The rates of queries over all pollers, from the totals that pollers report."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.coordinator.query_rates import NOTHING, WINDOW_SECONDS, Counted, QueryRates, loads
from pollcast.v1 import report_pb2

FIELDS = Counted._fields
STEPS = st.lists(st.tuples(st.floats(0.02, 5), st.tuples(*[st.integers(0, 10**6)] * len(FIELDS))), max_size=40)
"""Reports of one poller: the seconds since the one before, and what was counted meanwhile."""


def counts(query: str, totals: Sequence[float]) -> report_pb2.QueryCounts:
    return report_pb2.QueryCounts(query=query, **{name: int(n) for name, n in zip(FIELDS, totals, strict=True)})


def reported(
    rates: QueryRates, poller: str, steps: Sequence[tuple[float, Sequence[int]]]
) -> list[tuple[float, list[int]]]:
    """Report the steps of a poller that has counted nothing yet, and return the time and the totals of each report."""
    at, totals, made = 0.0, [0] * len(FIELDS), [(0.0, [0] * len(FIELDS))]
    rates.report(poller, [], at)
    for seconds, counted in steps:
        at += seconds
        totals = [before + more for before, more in zip(totals, counted, strict=True)]
        rates.report(poller, [counts("q", totals)], at)
        made.append((at, totals))
    return made


@given(STEPS)
def test_a_rate_is_what_was_counted_between_two_reports_a_window_apart(
    steps: list[tuple[float, tuple[int, ...]]],
) -> None:
    rates = QueryRates()
    made = reported(rates, "p1", steps)
    end, totals = made[-1]
    possible = [
        Counted(*((after - before) / (end - at) for after, before in zip(totals, begun, strict=True)))
        for at, begun in made[:-1]
        if (at == 0.0 or end - at >= WINDOW_SECONDS) and end - at <= 2 * WINDOW_SECONDS + 5
    ]
    found = rates.rates().get("q", NOTHING)
    assert any(found == pytest.approx(each) for each in possible) if possible else found == NOTHING


@given(st.lists(STEPS, max_size=4))
def test_the_rates_of_the_cluster_are_the_sum_of_those_of_its_pollers(
    pollers: list[list[tuple[float, tuple[int, ...]]]],
) -> None:
    together, alone = QueryRates(), list[Counted]()
    for number, steps in enumerate(pollers):
        reported(together, f"p{number}", steps)
        one = QueryRates()
        reported(one, "p", steps)
        alone.append(one.rates().get("q", NOTHING))
    expected = [sum(each) for each in zip(NOTHING, *alone, strict=True)]
    assert list(together.rates().get("q", NOTHING)) == pytest.approx(expected)


@given(st.lists(st.tuples(st.floats(0.02, 20), st.tuples(*[st.integers(0, 50)] * len(FIELDS))), max_size=20))
def test_no_rate_is_negative_whatever_a_poller_reports(totals: list[tuple[float, tuple[int, ...]]]) -> None:
    rates, at = QueryRates(), 0.0
    for seconds, counted in totals:
        at += seconds
        rates.report("p1", [counts("q", counted)] if any(counted) else [], at)
        assert all(each >= 0 for found in rates.rates().values() for each in found)


def test_a_restarted_poller_begins_anew_and_one_that_has_gone_counts_no_more() -> None:
    rates = QueryRates()
    for at, first, second in ((0.0, 1000, 7), (1.0, 1010, 27)):
        rates.report("p1", [counts("q", [first, *[0] * 6])], at)
        rates.report("p2", [counts("q", [second, *[0] * 6])], at)
    assert rates.rates()["q"].polls == 30
    rates.report("p1", [counts("q", [5, *[0] * 6])], 2.0)
    assert rates.rates()["q"].polls == 20
    rates.report("p1", [counts("q", [8, *[0] * 6])], 3.0)
    assert rates.rates()["q"].polls == 23
    rates.forget("p2")
    assert rates.rates()["q"].polls == 3


def test_a_query_that_begins_to_be_polled_has_its_rate_at_once() -> None:
    rates = QueryRates()
    for at in range(100):
        rates.report("p1", [], float(at))
    rates.report("p1", [counts("q", [10, *[0] * 6])], 100.0)
    assert rates.rates()["q"].polls == 10
    assert list(rates.rates()) == ["q"]


def test_queries_with_topics_or_rates_are_listed_by_name() -> None:
    rates = {"b": Counted(polls=2, unsent=1, bytes=50, statements=1, skipped=4, avoided=3, hinted=0.5)}
    found = list(loads(rates, {"c": 3, "a": 1}))
    assert [(each.query, each.topics) for each in found] == [("a", 1), ("b", 0), ("c", 3)]
    assert [each.polls_per_second for each in found] == [0, 2, 0]
    load = found[1]
    assert (load.unsent_per_second, load.bytes_per_second, load.statements_per_second) == (1, 50, 1)
    assert (load.skipped_per_second, load.avoided_per_second, load.hinted_per_second) == (4, 3, 0.5)
