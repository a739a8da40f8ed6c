"""The cost of decisions about topics, counted with a hundred topics and pollers and with many more."""

from __future__ import annotations

from collections.abc import Callable

from pollcast.poller.placement import Placement
from pollcast.services.coordination.claims import Claim
from tests.support.operations import operations
from tests.support.placements import MINE, OTHERS

SIZES = (100, 10_000)


def crowded(topics: int, pollers: int) -> Placement:
    """Return a placement of `me` among this many pollers, with this many own topics, free ones, and ones of others."""
    view = Placement("me", MINE, lambda _: 5.0)
    names = ["me", *(f"p{number}" for number in range(pollers - 1))]
    view.set_pollers(names, 0)
    for number in range(topics):
        for kind in ("mine", "free", "other"):
            view.add_demand(f"{kind}?n={number}", "gw", 0)
        view.owner_set(f"mine?n={number}", 3 * number + 1, MINE, 0)
        view.owner_set(f"other?n={number}", 3 * number + 2, OTHERS, 0, names[1 + number % (pollers - 1)])
    return view


def events(view: Placement) -> dict[str, Callable[[], object]]:
    """Return each kind of event, as a call for the view."""
    return {
        "demand": lambda: view.add_demand("new", "gw", 1),
        "demand of another gateway": lambda: view.add_demand("free?n=7", "gw2", 1),
        "demand gone": lambda: view.remove_demand("new", "gw", 1),
        "owner": lambda: view.owner_set("free?n=8", 10**6, OTHERS, 1, "p3"),
        "owner gone": lambda: view.owner_deleted("other?n=8", 10**6 + 1, 1),
        "handed to me": lambda: view.owner_set("other?n=9", 10**6 + 2, MINE, 1, "me"),
        "lost": lambda: view.owner_set("mine?n=9", 10**6 + 3, OTHERS, 1, "p3"),
        "pin": lambda: view.set_pin("mine?n=10", "p3", 1),
        "pin gone": lambda: view.remove_pin("mine?n=10", 1),
        "claimed": lambda: view.claimed("free?n=11", Claim("free?n=11", 10**6 + 9, MINE), 1),
        "moved": lambda: view.moved(Claim("mine?n=12", 37, MINE), "p3", 10**6 + 10, 1),
        "listed": lambda: view.owners_listed(set(), 10**6 + 4, 1),
        "next due": view.next_due,
        "poller ready": lambda: view.set_pollers([*view.ranking.ready_since, "new"], 1),
    }


def test_no_event_costs_more_with_a_hundred_times_the_topics() -> None:
    few, many = (crowded(size, 10) for size in SIZES)
    calls = events(many)
    for kind, call in events(few).items():
        assert operations(calls[kind]) <= 1.5 * operations(call) + 40, kind


def test_no_event_but_a_change_of_pollers_costs_more_with_twenty_times_the_pollers() -> None:
    few, many = (crowded(200, pollers) for pollers in (10, 200))
    calls = events(many)
    for kind, call in events(few).items():
        again = operations(call)  # the rank of a topic is counted once for each poller, then known
        if kind != "poller ready":
            assert operations(calls[kind]) <= 1.5 * again + 40 + (1200 if kind == "demand" else 0), kind


def test_one_call_returns_a_bounded_number_of_steps_and_all_of_them_in_turn() -> None:
    view = Placement("me", MINE, lambda _: 0.0)
    topics = [f"q?n={number}" for number in range(5000)]
    for topic in topics:
        view.add_demand(topic, "gw", 0)
    claims: list[str] = []
    while (at := view.next_due()) is not None:
        assert at <= 0
        steps = view.due(0)
        assert 0 < len(steps.claims) <= 1000
        claims += steps.claims
    assert sorted(claims) == sorted(topics)
    for number, topic in enumerate(topics, 1):
        view.claimed(topic, Claim(topic, number, MINE), 0)
        view.remove_demand(topic, "gw", 0)
    releases = 0
    while view.next_due() is not None:
        steps = view.due(0)
        assert 0 < len(steps.releases) <= 500
        releases += len(steps.releases)
    assert releases == 5000


def test_a_step_of_moves_looks_at_a_bounded_number_of_topics() -> None:
    costs = []
    for size in SIZES:
        view = crowded(size, 50)
        view.due(2.0)  # claims; also begins to move
        costs.append(operations(lambda: view.rebalancing.next_moves(3.0)))  # noqa: B023
    assert costs[1] <= 25 * costs[0]  # up to 500 topics instead of 20
