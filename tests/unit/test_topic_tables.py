"""The containers by which a poller decides in constant time, compared with plain dictionaries."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from pollcast.poller.timetable import SLACK_ENTRIES, Timetable
from pollcast.poller.topic_table import SPARE_STATES, TopicTable

TOPICS = st.sampled_from("abcd")
TIMES = st.integers(0, 20).map(float)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("set"), TOPICS, TIMES),
            st.tuples(st.just("cancel"), TOPICS, TIMES),
            st.tuples(st.just("take"), st.integers(0, 3), TIMES),
            st.tuples(st.just("clear"), TOPICS, TIMES),
        )
    )
)
def test_a_timetable_gives_the_keys_that_are_due_in_the_order_of_their_times(
    steps: list[tuple[str, str | int, float]],
) -> None:
    table, times = Timetable(), dict[str, float]()
    for step in steps:
        match step:
            case ("set", str(key), at):
                table.set(key, at)
                times[key] = at
            case ("cancel", str(key), _):
                table.cancel(key)
                times.pop(key, None)
            case ("take", int(limit), now):
                taken = table.take_due(now, limit)
                due = sorted((at, key) for key, at in times.items() if at <= now)
                assert taken == [key for _, key in due][:limit]
                for key in taken:
                    del times[key]
            case _:
                table.clear()
                times.clear()
        assert {key: table.at(key) for key in table} == times
        assert len(table) == len(times)
        assert table.next_at() == min(times.values(), default=None)
        assert all((key in table) == (key in times) for key in "abcd")


def test_a_timetable_holds_no_more_entries_than_it_needs() -> None:
    table = Timetable()
    for number in range(10_000):
        table.set(f"key {number % 10}", float(number))
        assert len(table._heap) <= 2 * 10 + SLACK_ENTRIES
    for number in range(10):
        table.cancel(f"key {number}")
    assert table.next_at() is None
    assert len(table._heap) <= SLACK_ENTRIES


GATEWAYS = st.sampled_from([f"g{number}" for number in range(4)])
OWNERS = st.sampled_from([None, "p1", "p2"])


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("demand"), TOPICS, GATEWAYS),
            st.tuples(st.just("no demand"), TOPICS, GATEWAYS),
            st.tuples(st.just("owner"), TOPICS, OWNERS),
            st.tuples(st.just("no owners"), TOPICS, OWNERS),
        )
    )
)
def test_a_topic_table_has_what_was_recorded_whatever_was_recorded_twice(
    steps: list[tuple[str, str, str | None]],
) -> None:
    table = TopicTable()
    demand, owners = defaultdict[str, set[str]](set), dict[str, str]()
    for kind, topic, name in steps:
        match kind, name:
            case "demand", str():
                table.add_demand(topic, name)
                demand[topic].add(name)
            case "no demand", str():
                table.remove_demand(topic, name)
                demand[topic].discard(name)
            case "owner", _:
                assert table.set_owner(topic, name) == owners.pop(topic, None)
                if name is not None:
                    owners[topic] = name
            case _:
                table.clear_owners()
                owners.clear()
        for each in "abcd":
            assert table.is_demanded(each) == bool(demand[each])
            assert table.owner(each) == owners.get(each)
        assert len(table) == sum(bool(demand[each]) or each in owners for each in "abcd")


def test_gateways_and_owners_that_come_and_go_leave_nothing_in_a_topic_table() -> None:
    table = TopicTable()
    for number in range(3 * SPARE_STATES):
        gateway = f"gateway {number}"
        table.add_demand("a", gateway)
        table.set_owner("a", f"poller {number}")
        table.remove_demand("a", gateway)
        table.set_owner("a", None)
    assert len(table) == 0
    assert len(table._shared) <= SPARE_STATES + 1
    table.add_demand("a", "another")
    assert table._states["a"] == (1, None)  # the number of a gateway that is gone is used again
