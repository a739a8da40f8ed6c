"""The rules of presence without a network: lists, differences, departures, limits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pollcast.gateway import pace, presence_list
from pollcast.gateway.presence_keys import MemberId
from pollcast.gateway.roster import Diff, Member, Roster, difference, state_payload
from pollcast.services.errors import InvalidPayload
from tests.support.phoenix_presence import PhoenixPresence
from tests.support.presence_world import TOPIC, Client, World

KEYS = ("ann", "bob", "cy")

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.integers(0, 1), st.sampled_from((*KEYS, None)), st.integers(0, 2)),
        st.tuples(st.just("leave"), st.integers(0, 9)),
        st.tuples(st.just("close"), st.integers(0, 9)),
        st.tuples(st.just("move"), st.integers(0, 9), st.integers(0, 1)),
        st.tuples(st.just("update"), st.integers(0, 9), st.integers(0, 2)),
        st.tuples(st.just("congest"), st.integers(0, 9)),
        st.tuples(st.just("drain"), st.integers(0, 9)),
        st.tuples(st.just("crash"), st.integers(0, 1)),
        st.tuples(st.just("deliver"), st.integers(0, 1), st.integers(1, 3)),
        st.tuples(st.just("pass"), st.sampled_from((0.05, 0.1, 0.3, 1.0, 2.5))),
    ),
    min_size=20,
    max_size=80,
)


def apply(world: World, step: tuple[Any, ...]) -> None:
    """Do one step; a step about a client does nothing while there is none."""
    match step:
        case ("join", int(gateway), key, int(name)):
            world.join(gateway, key, name)
        case ("crash", int(gateway)):
            world.crash(gateway)
        case ("deliver", int(gateway), int(upto)):
            world.deliver(gateway, upto)
        case ("pass", float(seconds)):
            world.pass_time(seconds)
        case (action, int(number), *rest) if world.clients:
            apply_to_client(world, world.clients[number % len(world.clients)], action, *rest)


def apply_to_client(world: World, client: Client, action: str, *rest: int) -> None:
    match action, rest:
        case "leave", _:
            world.leave(client)
        case "close", _:
            world.close(client)
        case "move", (gateway,):
            world.close(client)
            world.join(gateway, client.request.key if client.request else None)
        case "update", (name,):
            world.update(client, name)
        case "congest", _:
            client.blocked = True
        case "drain", _:
            client.drain()


@settings(max_examples=100, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(STEPS, st.sampled_from((0.0, 0.001, 0.01)))
def test_every_list_equals_the_truth_whatever_happens(steps: list[tuple[Any, ...]], write_seconds: float) -> None:
    world = World()
    with pytest.MonkeyPatch.context() as patch:  # the pace of thousands of clients
        patch.setattr(pace, "WRITE_SECONDS", write_seconds)
        for step in steps:
            apply(world, step)
        world.settle()
    for client in world.clients:
        assert client.presence.listed("name") == world.truth()
    refs = {frozenset(client.presence.refs) for client in world.clients}
    assert len(refs) <= 1, "clients list different refs for the same members"
    for gateway in world.gateways:
        assert len(gateway.shown) == sum(
            client.request is not None and client.gateway is gateway for client in world.clients
        )


def test_a_list_is_encoded_and_compressed_once_for_all_that_join(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = 0
    encode = state_payload

    def counted(members: Iterable[Member]) -> bytes:
        nonlocal encoded
        encoded += 1
        return encode(members)

    monkeypatch.setattr(presence_list, "state_payload", counted)
    world = World()
    for number in range(50):
        world.join(0, f"key-{number}", 0)
    world.settle()
    before, encoded = encoded, 0
    for _ in range(20):
        world.join(0, None)
    assert before
    assert encoded == 1


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.sampled_from((0.0, 0.05, 0.15, 0.5, 1.9))), min_size=1, max_size=6),
    st.booleans(),
)
def test_a_member_that_comes_back_within_two_seconds_never_leaves(
    moves: list[tuple[int, float]], two_devices: bool
) -> None:
    world = World()
    watchers = [world.join(0, None), world.join(1, None)]
    if two_devices:
        world.join(1, "ann", 7)
    client = world.join(0, "ann")
    for number, away in moves:
        for gateway in (0, 1):
            world.deliver(gateway)
        world.pass_time(0.3)
        world.close(client)
        for gateway in (0, 1):
            world.deliver(gateway)
        world.pass_time(away)
        client = world.join(number, "ann")
    world.settle()
    for watcher in watchers:
        assert watcher.presence.arrivals == ["ann"]
        assert watcher.presence.departures == []
        assert watcher.presence.listed("name") == world.truth()


def test_a_member_that_does_not_come_back_leaves_after_two_seconds() -> None:
    world = World()
    watcher = world.join(0, None)
    client = world.join(0, "ann")
    world.pass_time(0.2)
    world.close(client)
    world.pass_time(1.95)
    assert watcher.presence.departures == []
    assert world.gateways[0].shown
    world.pass_time(0.4)
    assert watcher.presence.departures == ["ann"]
    assert not world.gateways[0].shown


@pytest.mark.parametrize("back_on", [0, 1])
def test_a_member_that_comes_back_replaces_the_departed_one_at_once(back_on: int) -> None:
    world = World()
    watcher = world.join(0, None)
    client = world.join(0, "ann", 1)
    world.pass_time(0.2)
    world.close(client)
    world.pass_time(0.5)
    world.join(back_on, "ann", 2)
    for _ in range(2):
        world.deliver(0)
        world.deliver(1)
    world.pass_time(0.15)
    assert watcher.presence.listed("name") == [("ann", (2,))]
    assert watcher.presence.diffs == 2
    assert watcher.presence.departures == []
    assert not world.gateways[0].presences.departing


def test_a_member_that_leaves_is_gone_with_the_next_diff() -> None:
    world = World()
    watcher = world.join(0, None)
    client = world.join(0, "ann")
    world.pass_time(0.2)
    world.leave(client)
    assert not world.gateways[0].shown
    world.pass_time(0.1)
    assert watcher.presence.departures == ["ann"]


def test_the_first_client_finds_itself_in_the_state() -> None:
    world = World()
    client = world.join(0, "ann", 3)
    assert client.presence.listed("name") == [("ann", (3,))]
    world.pass_time(1.0)
    assert [message[3] for message in client.received] == ["presence_state"]


def test_any_number_of_joins_makes_at_most_ten_diffs_a_second() -> None:
    world = World()
    watcher = world.join(0, None)
    for number in range(200):
        world.join(number % 2, f"user {number}")
        world.deliver(0)
        world.pass_time(0.005)
    world.settle()
    assert 8 <= watcher.presence.diffs <= 11
    assert len(watcher.presence.listed("name")) == 200


def test_a_member_that_came_and_left_within_a_window_was_never_there() -> None:
    world = World()
    watcher = world.join(0, None)
    world.leave(world.join(0, "ann"))
    world.settle()
    assert watcher.presence.diffs == 0


def test_a_new_meta_replaces_the_old_one_under_another_ref() -> None:
    world = World()
    watcher, client = world.join(1, None), world.join(0, "ann", 1)
    world.settle()
    before = watcher.presence.refs
    world.update(client, 2)
    world.settle()
    assert watcher.presence.listed("name") == [("ann", (2,))]
    assert not watcher.presence.refs & before
    assert (watcher.presence.arrivals, watcher.presence.departures) == (["ann"], [])
    diffs = watcher.presence.diffs
    world.update(client, 2)
    world.settle()
    assert watcher.presence.diffs == diffs, "the same meta was announced again"


def test_several_devices_of_one_key_are_several_metas() -> None:
    world = World()
    first = world.join(0, "ann", 1)
    world.join(1, "ann", 2)
    world.settle()
    assert first.presence.listed("name") == [("ann", (1,)), ("ann", (2,))]
    world.leave(first)
    other = world.join(0, None)
    world.settle()
    assert other.presence.listed("name") == [("ann", (2,))]


def test_the_members_of_a_dead_gateway_leave_in_one_diff() -> None:
    world = World()
    watcher = world.join(0, None)
    for number in range(50):
        world.join(1, f"user {number}")
    world.settle()
    diffs = watcher.presence.diffs
    world.crash(1)
    world.deliver(0)
    world.pass_time(0.15)
    assert watcher.presence.listed("name") == []
    assert watcher.presence.diffs == diffs + 1


def test_a_client_that_is_not_listed_cannot_change_its_meta() -> None:
    world = World()
    client = world.join(0, None)
    with pytest.raises(InvalidPayload):
        client.gateway.presence.update(client, {})


def test_a_list_without_clients_and_members_is_forgotten() -> None:
    world = World()
    client = world.join(0, "ann")
    watched = world.gateways[0].presence
    world.close(client)
    world.pass_time(1.0)
    assert world.gateways[0].presence is watched
    world.pass_time(1.5)
    assert world.gateways[0].presence is not watched


def test_a_forgotten_list_announces_nothing() -> None:
    world = World()
    world.close(world.join(0, "ann"))
    while world.gateways[0].shown:
        world.pass_time(0.05)  # the member is gone, and that is not announced yet
    watcher = world.join(0, "bob")
    world.pass_time(1.0)
    assert watcher.presence.listed("name") == [("bob", (0,))]
    assert watcher.presence.diffs == 0


async def test_a_watch_that_did_not_read_gets_one_difference() -> None:
    world = World()
    with world.gateways[0].presences.watching(TOPIC) as watch:
        events = watch.events()
        assert await anext(events) == ({}, 0)
        members = [world.join(0, "ann"), world.join(0, "bob")]
        world.pass_time(0.5)
        world.leave(members[0])
        world.pass_time(0.5)
        diff, total = await anext(events)
        assert isinstance(diff, Diff)
        assert [member.key for member in diff.joins] == ["bob"]
        assert (diff.leaves, total) == ((), 1)
        world.gateways[0].presences.end_watches()
        assert [event async for event in events] == []


# --- limits -------------------------------------------------------------------------------------------------------


def test_a_long_list_is_capped_and_clients_get_the_total(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pollcast.gateway.roster.MAX_SHOWN", 20)
    world = World()
    watcher = world.join(1, None)
    members = [world.join(0, f"user {number}") for number in range(20)]
    world.settle()
    assert watcher.presence.capped is None
    members += [world.join(0, f"late {number}") for number in range(10)]
    world.settle()
    late = world.join(1, None)
    for client in (watcher, late):
        assert len(client.presence.refs) == 20
        assert client.presence.capped == {"shown": 20, "total": 30}
        assert "late 9" not in (client.presence.state or {})
    assert watcher.presence.refs == late.presence.refs == members[7].presence.refs
    for member in members[:15]:
        world.leave(member)
    world.settle()
    assert watcher.presence.capped == {"shown": 15, "total": 15}
    assert watcher.presence.listed("name") == world.truth()


def test_the_total_of_a_capped_list_is_sent_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pollcast.gateway.roster.MAX_SHOWN", 3)
    world = World()
    watcher = world.join(0, None)
    for number in range(100):
        world.join(0, f"user {number}")
        world.pass_time(0.05)
    assert 4 <= sum(message[3] == "presence_capped" for message in watcher.received) <= 6
    world.pass_time(1.5)
    assert watcher.presence.capped == {"shown": 3, "total": 100}


def test_under_endless_churn_diffs_keep_the_pace_and_the_total_is_still_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pollcast.gateway.roster.MAX_SHOWN", 3)
    monkeypatch.setattr(pace, "WRITE_SECONDS", 0.0)
    monkeypatch.setattr(pace, "BYTE_SECONDS", 0.0)
    world = World()
    watcher = world.join(0, None)
    for _ in range(3):
        world.join(0, None)
    monkeypatch.setattr(pace, "WRITE_SECONDS", 0.1 * pace.SHARE / 4)  # a message to these four is paid for in 0.1 s
    for number in range(400):
        member = world.join(0, f"user {number % 20}")
        world.pass_time(0.05)
        world.leave(member)
    events = [message[3] for message in watcher.received]
    assert 10 <= events.count("presence_diff") <= 400 * 0.05 / 0.1 + pace.ALLOWANCE_SECONDS / 0.1
    world.join(0, "another")
    for number in range(40):
        world.join(0, f"late {number}")
        world.pass_time(0.05)
    assert sum(message[3] == "presence_capped" for message in watcher.received) >= 1


@given(st.lists(st.tuples(st.sampled_from("jl"), st.integers(0, 6), st.sampled_from(KEYS), st.integers(0, 1))))
def test_differences_lead_from_each_state_to_the_next(steps: list[tuple[str, int, str, int]]) -> None:
    roster, client = Roster(), PhoenixPresence()
    client.on_message("presence_state", {})
    for action, ref, key, name in steps:
        member_id = MemberId("gw", f"{ref}.{key}.{name}")
        if action == "j":
            roster.join(Member.of(member_id, key, str(name), {"name": name}))
        else:
            roster.leave(member_id)
        if ref % 2:
            diff = roster.flush()
            if diff is not None:
                client.on_message("presence_diff", orjson.loads(diff.payload()))
            assert client.refs == set(roster.announced)
    assert difference(roster.announced, roster.announced) is None
