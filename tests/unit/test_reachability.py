"""Whether a poller should be given topics (poller/reachability.py), what one does that should not (placement), and the
options of connections that let services be found and reached."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pollcast.poller.placement import Placement
from pollcast.poller.placement_steps import PlacementSteps
from pollcast.poller.postgresql.connection import KEEPALIVE
from pollcast.poller.ranking import LAST_SECONDS, rank
from pollcast.poller.reachability import (
    FORGIVEN_SECONDS,
    PROBATION_SECONDS,
    STEP_SECONDS,
    UNPROVEN_SECONDS,
    UNREACHED_SECONDS,
    Reachability,
)
from pollcast.poller.rebalancing import YIELD_SECONDS
from pollcast.services.coordination.endpoints import CHANNEL_OPTIONS
from pollcast.services.serving.rpc import PATIENT, VIGILANT

TICK = 0.25

SPANS = st.lists(
    st.tuples(st.booleans(), st.booleans(), st.floats(0.0, 100.0).map(lambda seconds: round(seconds / TICK) * TICK)),
    max_size=30,
)
"""Sequences of what a poller sees: whether gateways are registered, whether one reaches it, and for how long."""


def looks(core: Reachability, since: float, seconds: float, *, gateways: bool, reached: bool) -> float:
    """Look every TICK for this long, and return the time afterwards."""
    for number in range(int(seconds / TICK)):
        core.look(since + number * TICK, gateways=gateways, reached=reached)
    return since + int(seconds / TICK) * TICK


def test_a_poller_offers_itself_without_gateways_or_once_one_reaches_it() -> None:
    assert Reachability().look(0, gateways=False, reached=False)
    assert Reachability().look(0, gateways=True, reached=True)
    new = Reachability()
    assert not new.look(0, gateways=True, reached=False)
    assert looks(new, TICK, 60, gateways=True, reached=False)
    assert not new.offered
    assert new.look(61, gateways=True, reached=True)


def test_a_poller_that_was_never_reached_hesitates_at_once_when_a_gateway_is_there() -> None:
    core = Reachability()
    now = looks(core, 0, 10, gateways=False, reached=False)
    assert not core.hesitant
    assert core.look(now, gateways=True, reached=False)
    assert core.hesitant
    core.look(now + TICK, gateways=True, reached=False)
    assert not core.look(now + TICK + UNPROVEN_SECONDS, gateways=True, reached=False)
    assert core.look(now + 1, gateways=True, reached=True)
    assert not core.hesitant


@given(SPANS)
def test_a_poller_that_was_reached_is_given_up_only_after_the_whole_time_without_a_gateway(
    spans: list[tuple[bool, bool, float]],
) -> None:
    core, now, missed = Reachability(), 0.0, 0.0
    core.look(now, gateways=True, reached=True)
    for gateways, reached, seconds in spans:
        for _ in range(int(seconds / TICK)):
            now += TICK
            missed = missed + TICK if gateways and not reached else 0.0
            before = core.offered
            core.look(now, gateways=gateways, reached=reached)
            assert not (before and not core.offered) or missed >= UNREACHED_SECONDS - TICK
            assert not core.offered or missed < UNREACHED_SECONDS
            assert core.hesitant is not core.offered  # it was reached once


@given(SPANS)
def test_a_poller_that_is_reached_for_a_minute_is_offered_whatever_was_before(
    spans: list[tuple[bool, bool, float]],
) -> None:
    core, now = Reachability(), 0.0
    for gateways, reached, seconds in spans:
        now = looks(core, now, seconds, gateways=gateways, reached=reached)
    looks(core, now, PROBATION_SECONDS[1] + 2 * TICK, gateways=True, reached=True)
    assert core.offered


@given(st.floats(UNREACHED_SECONDS + 1, 30.0), st.floats(0.5, 30.0))
def test_a_poller_that_is_reached_now_and_then_changes_its_mind_ever_more_rarely(off: float, on: float) -> None:
    core, now, changes = Reachability(), 0.0, 0
    while now < FORGIVEN_SECONDS:
        for seconds, reached in ((on, True), (off, False)):
            before = core.offered
            now = looks(core, now, max(TICK, seconds), gateways=True, reached=reached)
            changes += core.offered != before
    # Each failure doubles the time for which it has to be reached, up to a minute, which `on` never is.
    assert changes <= 2 * 6


@given(st.floats(0.0, 1e6))
def test_a_poller_that_stood_still_itself_is_not_given_up_for_that(seconds: float) -> None:
    core = Reachability()
    core.look(0, gateways=True, reached=True)
    assert core.look(seconds, gateways=True, reached=False)
    assert core.missed <= STEP_SECONDS


# --- placement

TOPICS = [f"shop?n={number}" for number in range(40)]


def placed(*ready: str) -> Placement:
    """Return the placement of the poller `me`, in a cluster with these ready pollers since the time 0."""
    placement = Placement("me", 1, lambda topic: 1.0)
    placement.set_pollers(ready, 0.0)
    return placement


def own(placement: Placement, topics: list[str], now: float = 0.0) -> None:
    """Have the poller own these topics, which are demanded."""
    for epoch, topic in enumerate(topics, 1):
        placement.add_demand(topic, "gateway-1", now)
        placement.owner_set(topic, epoch, 1, now)


def run_until(placement: Placement, end: float) -> list[PlacementSteps]:
    """Return the steps due up to this time, whose hand-overs are carried out."""
    steps = []
    while (at := placement.next_due()) is not None and at <= end:
        now = max(0.0, at)
        due = placement.due(now)
        for number, (claim, to) in enumerate(due.moves):
            placement.moved(claim, to, 1000 + number, now)
        steps.append(due)
    return steps


def test_a_hesitant_poller_claims_what_nobody_else_has_claimed_and_at_once_when_it_is_reached() -> None:
    placement = placed("me", "other")
    placement.set_hesitant(True, 0.0)
    mine = [topic for topic in TOPICS if rank(topic, ["me", "other"])[0] == "me"]
    for topic in mine:
        placement.add_demand(topic, "gateway-1", 0.0)
    assert not placement.due(LAST_SECONDS - 0.01).claims
    placement.set_hesitant(False, LAST_SECONDS - 0.01)
    assert set(placement.due(LAST_SECONDS - 0.01).claims) == set(mine)
    last = placed()
    last.set_hesitant(True, 0.0)
    last.add_demand("shop?n=1", "gateway-1", 0.0)
    assert last.due(LAST_SECONDS).claims == ["shop?n=1"]


def test_a_hesitant_poller_hands_over_all_that_it_has_once_others_are_ready_for_long_enough() -> None:
    placement = placed("me", "one", "two")
    own(placement, TOPICS)
    placement.set_pollers(["one", "two"], 10.0)
    placement.set_hesitant(True, 10.0)
    steps = run_until(placement, 11.0)
    assert not placement.held
    receivers = [to for step in steps for _, to in step.moves]
    assert {receivers.count("one"), receivers.count("two")} == {len(TOPICS) // 2}


def test_a_hesitant_poller_keeps_its_topics_while_nobody_else_is_ready_for_long_enough() -> None:
    placement = placed()
    own(placement, TOPICS)
    placement.set_hesitant(True, 10.0)
    run_until(placement, 60.0)
    assert set(placement.held) == set(TOPICS)
    placement.set_pollers(["other"], 60.0)  # reached first after an outage of the network
    run_until(placement, 60.0 + YIELD_SECONDS - 0.01)
    assert set(placement.held) == set(TOPICS)
    placement.set_hesitant(False, 60.0 + YIELD_SECONDS - 0.01)  # so is this one
    placement.set_pollers(["me", "other"], 60.0 + YIELD_SECONDS - 0.01)
    run_until(placement, 120.0)
    assert len(placement.held) == len(TOPICS) // 2


def test_a_hesitant_poller_keeps_a_topic_whose_query_nobody_else_has() -> None:
    placement = placed("other")
    own(placement, TOPICS[:2])
    placement.rebalancing.balance.exclude("other", TOPICS[0])
    placement.set_hesitant(True, 10.0)
    run_until(placement, 60.0)
    assert set(placement.held) == set(TOPICS[:2])
    assert placement.next_due() is None or placement.next_due() > 60.0  # type: ignore[operator]


# --- connections


def test_a_name_that_leads_elsewhere_is_asked_for_again_within_a_second() -> None:
    for options in (dict(VIGILANT), dict(CHANNEL_OPTIONS)):
        assert int(options["grpc.dns_min_time_between_resolutions_ms"]) <= 1000
        assert int(options["grpc.max_reconnect_backoff_ms"]) <= 1000
        assert int(options["grpc.dns_ares_query_timeout"]) <= 3000


def test_no_connection_is_idle_for_so_long_that_a_nat_forgets_it() -> None:
    vigilant, etcd = dict(VIGILANT), dict(CHANNEL_OPTIONS)
    assert int(vigilant["grpc.keepalive_time_ms"]) <= 15_000
    assert vigilant["grpc.keepalive_permit_without_calls"] == 1
    assert int(dict(PATIENT)["grpc.http2.min_recv_ping_interval_without_data_ms"]) < 2_000  # allows these pings
    assert 5_000 < int(etcd["grpc.keepalive_time_ms"]) <= 15_000  # etcd allows one every 5 s, and none without calls
    assert int(etcd["grpc.client_idle_timeout_ms"]) <= 20_000
    assert int(KEEPALIVE["keepalives_idle"]) <= 15
