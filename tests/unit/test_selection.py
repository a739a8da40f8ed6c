"""Selected keys are known as etcd has them, whatever the order in which events and reads arrive."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pollcast.services.coordination.operations import KeyEvent, Kv
from pollcast.services.coordination.selection import SelectedKeys

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "delete", "select", "discard", "event", "read", "answer", "passed"]),
        st.sampled_from("ab"),
    ),
    max_size=60,
)


@given(STEPS)
def test_a_selected_key_ends_as_etcd_has_it_and_never_goes_back(steps: list[tuple[str, str]]) -> None:
    """etcd changes; its events are delivered later, in order, and its answers to reads in between."""
    stored: dict[str, Kv] = {}
    events: list[KeyEvent] = []  # not delivered yet
    answers: list[tuple[str, Kv | None, int]] = []  # likewise
    selected: set[str] = set()
    keys = SelectedKeys()
    revision, delivered = 1, 1
    seen: dict[str, int] = {}
    told: dict[str, Kv] = {}  # as a subscriber knows it

    def change(event: KeyEvent | None) -> None:
        if event is None:
            return
        key = event.kv.key
        assert event.kv.mod_revision >= seen.get(key, 0)
        seen[key] = event.kv.mod_revision
        assert event.previous == told.get(key)
        if event.deleted:
            del told[key]
        else:
            told[key] = event.kv

    def deliver() -> None:
        nonlocal delivered
        event = events.pop(0)
        if event.kv.key in selected:
            change(keys.take_event(event))
        delivered = event.kv.mod_revision

    def answer() -> None:
        key, kv, at = answers.pop(0)
        if key in selected:
            change(keys.take_read(key, kv, at))

    for what, key in steps:
        if what in ("put", "delete"):
            revision += 1
            if what == "put":
                stored[key] = Kv(key, b"", revision, revision, 1)
                events.append(KeyEvent(stored[key]))
            elif stored.pop(key, None) is not None:
                events.append(KeyEvent(Kv(key, b"", 0, revision, 0), deleted=True))
        elif what == "select" and key not in selected:
            selected.add(key)
            keys.begin_read(key)
            answers.append((key, stored.get(key), revision))
        elif what == "discard" and key in selected:
            selected.discard(key)
            keys.discard(key)
            told.pop(key, None)
            seen.pop(key, None)
            answers = [each for each in answers if each[0] != key]
        elif what == "event" and events:
            deliver()
        elif what == "answer" and answers:
            answer()
        elif what == "passed" and not answers:
            keys.passed(delivered)
    while answers:
        answer()
    while events:
        deliver()
    assert keys.items == told == {key: kv for key, kv in stored.items() if key in selected}
    keys.passed(revision)
    assert keys.ahead == 0


def test_after_a_loss_a_key_that_is_equal_to_before_is_passed_on() -> None:
    keys = SelectedKeys()
    kv = Kv("a", b"", 7, 7, 1)
    keys.begin_read("a")
    assert keys.take_read("a", kv, 9) == KeyEvent(kv)
    assert keys.take_read("a", kv, 9) is None
    keys.begin_read("a", anew=True)
    assert keys.take_read("a", kv, 7) == KeyEvent(kv, previous=kv)
