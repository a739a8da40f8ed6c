"""Waking a topic's followers: all of them, a bounded number in each turn of the event loop, none for ever late."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hypothesis import given
from hypothesis import strategies as st

from pollcast.gateway.wakes import TopicListener, Wakes
from tests.support.audience_clients import Later

AT_ONCE = 64
ACTIONS = st.lists(st.sampled_from(["change", "come", "leave", "turn"]), max_size=30)


class Listener:
    """A follower that keeps the number of the change that it has seen."""

    def __init__(self, changes: list[int]) -> None:
        self.changes = changes
        self.seen = changes[0]

    def wake(self) -> None:
        """See the latest change, and count."""
        self.seen = self.changes[0]
        self.changes[1] += 1

    def end(self) -> None:
        """Do nothing."""

    def renew(self) -> None:
        """Do nothing."""


def wake_each(listeners: Iterable[TopicListener]) -> None:
    """Wake the listeners one after another."""
    for each in listeners:
        each.wake()


@given(first=st.integers(0, 3 * AT_ONCE), actions=ACTIONS)
def test_every_follower_is_woken_for_the_last_change_and_few_in_one_turn(first: int, actions: list[str]) -> None:
    changes = [0, 0]  # the last change, and the wakes since the turn began
    turns = Later()
    followers: set[TopicListener] = {Listener(changes) for _ in range(first)}
    wakes = Wakes(followers, wake_each, AT_ONCE, turns)
    told: list[int] = []
    for action in [*actions, "change"]:
        changes[1] = 0
        if action == "change":
            changes[0] += 1
            wakes.wake_all(lambda at=changes[0]: told.append(at))  # type: ignore[misc]
        elif action == "come":
            followers |= {Listener(changes) for _ in range(AT_ONCE)}
        elif action == "leave" and followers:
            followers.pop()
        elif action == "turn":
            turns.go_on()
        assert changes[1] <= AT_ONCE
    while turns.go_on():
        pass
    assert told == list(range(1, changes[0] + 1))
    assert {each.seen for each in followers if isinstance(each, Listener)} <= {changes[0]}


def test_those_who_wait_come_first_when_changes_are_faster_than_the_turns() -> None:
    changes = [0, 0]
    turns = Later()
    listeners = [Listener(changes) for _ in range(5 * AT_ONCE)]
    wakes = Wakes(set(listeners), wake_each, AT_ONCE, turns)
    for _ in range(5):
        changes[0] += 1
        wakes.wake_all()
        turns.go_on()
    assert all(each.seen for each in listeners)


def test_a_follower_that_fails_keeps_none_of_the_others_from_being_woken() -> None:
    class Broken(Listener):
        def wake(self) -> None:
            """Fail."""
            raise RuntimeError

    changes = [0, 0]
    turns = Later()
    listeners = [Listener(changes) for _ in range(2 * AT_ONCE)]
    wakes = Wakes({*listeners, Broken(changes)}, wake_each, AT_ONCE, turns)
    changes[0] = 1
    calls: list[Callable[[], object]] = [wakes.wake_all, *[turns.go_on] * 4]
    failed = 0
    for call in calls:
        try:
            call()
        except RuntimeError:
            failed += 1
    assert failed == 1
    assert all(each.seen == 1 for each in listeners)
