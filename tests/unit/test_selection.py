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


class Store:
    """An etcd whose events and answers are delivered later, each in its order, and a subscriber of selected keys."""

    def __init__(self) -> None:
        self.stored: dict[str, Kv] = {}
        self.events: list[KeyEvent] = []  # not delivered yet
        self.answers: list[tuple[str, Kv | None, int]] = []  # likewise
        self.selected: set[str] = set()
        self.keys = SelectedKeys()
        self.revision = self.delivered = 1
        self.known: dict[str, Kv] = {}  # by the subscriber
        self._newest: dict[str, int] = {}  # the newest revision of each key that the subscriber has seen

    def write(self, key: str, *, deleted: bool) -> None:
        """Put or delete a key."""
        self.revision += 1
        if not deleted:
            self.stored[key] = Kv(key, b"", self.revision, self.revision, 1)
            self.events.append(KeyEvent(self.stored[key]))
        elif self.stored.pop(key, None) is not None:
            self.events.append(KeyEvent(Kv(key, b"", 0, self.revision, 0), deleted=True))

    def select(self, key: str) -> None:
        """Select a key, which is read now, and its answer delivered later."""
        self.selected.add(key)
        self.keys.begin_read(key)
        self.answers.append((key, self.stored.get(key), self.revision))

    def discard(self, key: str) -> None:
        """Select a key no more."""
        self.selected.discard(key)
        self.keys.discard(key)
        self.known.pop(key, None)
        self._newest.pop(key, None)
        self.answers = [each for each in self.answers if each[0] != key]

    def deliver_event(self) -> None:
        """Deliver the next event."""
        event = self.events.pop(0)
        if event.kv.key in self.selected:
            self._change(self.keys.take_event(event))
        self.delivered = event.kv.mod_revision

    def deliver_answer(self) -> None:
        """Deliver the next answer to a read."""
        key, kv, at = self.answers.pop(0)
        if key in self.selected:
            self._change(self.keys.take_read(key, kv, at))

    def _change(self, event: KeyEvent | None) -> None:
        """Take a change as a subscriber: it never goes back, and says what was there before."""
        if event is None:
            return
        key = event.kv.key
        assert event.kv.mod_revision >= self._newest.get(key, 0)
        self._newest[key] = event.kv.mod_revision
        assert event.previous == self.known.get(key)
        if event.deleted:
            del self.known[key]
        else:
            self.known[key] = event.kv


@given(STEPS)
def test_a_selected_key_ends_as_etcd_has_it_and_never_goes_back(steps: list[tuple[str, str]]) -> None:
    etcd = Store()
    for what, key in steps:
        if what in ("put", "delete"):
            etcd.write(key, deleted=what == "delete")
        elif what == "select" and key not in etcd.selected:
            etcd.select(key)
        elif what == "discard" and key in etcd.selected:
            etcd.discard(key)
        elif what == "event" and etcd.events:
            etcd.deliver_event()
        elif what == "answer" and etcd.answers:
            etcd.deliver_answer()
        elif what == "passed" and not etcd.answers:
            etcd.keys.passed(etcd.delivered)
    while etcd.answers:
        etcd.deliver_answer()
    while etcd.events:
        etcd.deliver_event()
    expected = {key: kv for key, kv in etcd.stored.items() if key in etcd.selected}
    assert etcd.keys.items == etcd.known == expected
    etcd.keys.passed(etcd.revision)
    assert etcd.keys.ahead == 0


def test_after_a_loss_a_key_that_is_equal_to_before_is_passed_on() -> None:
    keys = SelectedKeys()
    kv = Kv("a", b"", 7, 7, 1)
    keys.begin_read("a")
    assert keys.take_read("a", kv, 9) == KeyEvent(kv)
    assert keys.take_read("a", kv, 9) is None
    keys.begin_read("a", anew=True)
    assert keys.take_read("a", kv, 7) == KeyEvent(kv, previous=kv)
