"""The backlog of keys to write: what may be attempted when, as a pure core."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pollcast.services.coordination.backlog import ASIDE_SECONDS, MAX_ASIDE_SECONDS, Backlog, LaneName

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add put", "add delete", "take", "take and write", "take and hold", "take and set aside"]),
        st.sampled_from("abcdef"),
        st.integers(0, 3),
    ),
    max_size=60,
)


@given(STEPS)
def test_every_key_that_waits_is_taken_once_the_time_has_come_and_by_its_last_lane(
    steps: list[tuple[str, str, int]],
) -> None:
    backlog = Backlog()
    wanted: dict[str, LaneName] = {}  # the lane of each key that is not written yet
    now = 0.0
    for what, key, seconds in steps:
        now += seconds
        if what.startswith("add"):
            wanted[key] = "put" if what == "add put" else "delete"
            backlog.add(wanted[key], key)
            continue
        taken = backlog.take(now, 3)
        assert len(set(taken)) == len(taken) <= 3
        assert set(taken) <= set(wanted)
        if what == "take and set aside":
            for each in taken:
                backlog.set_aside(wanted[each], each, now)
        elif what == "take and hold":
            for lane in ("put", "delete"):
                backlog.hold(lane, [each for each in taken if wanted[each] == lane], now + 2)
        else:
            for each in taken:
                backlog.written(wanted.pop(each), [each])
    assert len(backlog) == len(wanted)
    if wanted:
        assert backlog.next_at() is not None
    later = now + MAX_ASIDE_SECONDS
    assert backlog.ready(later) == len(wanted)
    assert set(backlog.take(later, 100)) == set(wanted)
    assert backlog.next_at() is None


def test_puts_that_are_held_back_do_not_hold_back_deletes() -> None:
    backlog = Backlog()
    backlog.add("put", "a")
    assert backlog.take(0.0, 9) == ["a"]
    backlog.hold("put", ["a"], 2.0)
    backlog.add("put", "b")
    backlog.add("delete", "c")
    assert backlog.next_at() == float("-inf")
    assert backlog.take(1.0, 9) == ["c"]
    assert backlog.take(1.0, 9) == []
    assert backlog.next_at() == 2.0
    assert backlog.take(2.0, 9) == ["a", "b"]


def test_a_key_that_changes_lanes_while_it_is_being_written_stays_in_the_new_one() -> None:
    backlog = Backlog()
    backlog.add("put", "a")
    assert backlog.take(0.0, 9) == ["a"]
    backlog.add("delete", "a")
    backlog.hold("put", ["a"], 60.0)
    assert backlog.take(0.0, 9) == ["a"]
    backlog.add("put", "a")
    assert not backlog.set_aside("delete", "a", 0.0)
    assert backlog.take(60.0, 9) == ["a"]


def test_a_rejected_key_waits_longer_each_time_and_is_attempted_at_once_when_it_changes() -> None:
    backlog = Backlog()
    backlog.add("put", "a")
    now, pauses = 0.0, []
    for attempt in range(8):
        assert backlog.take(now, 9) == ["a"]
        assert backlog.set_aside("put", "a", now) == (attempt == 0)
        at = backlog.next_at()
        assert at is not None
        pauses.append(at - now)
        now = at
    assert pauses[:3] == [ASIDE_SECONDS, 2 * ASIDE_SECONDS, 4 * ASIDE_SECONDS]
    assert pauses[-1] == MAX_ASIDE_SECONDS
    assert backlog.take(now, 9) == ["a"]
    backlog.set_aside("put", "a", now)
    backlog.add("put", "a")
    assert backlog.take(now, 9) == ["a"]
    assert backlog.set_aside("put", "a", now)  # reported again: it is another value
