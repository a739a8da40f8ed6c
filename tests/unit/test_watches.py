"""The table of watches delivers each event of each range once and in order, whatever becomes of the streams."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from etcd3 import etcdrpc
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import given
from hypothesis import strategies as st

from pollcast.services.coordination.history import History, holds, witness_requests
from pollcast.services.coordination.watch_stream import PROGRESS_SECONDS, RENEW_SECONDS, STALL_SECONDS, Silence
from pollcast.services.coordination.watches import WINDOW, Ended, Inbox, Message, Opened, Received, WatchTable
from pollcast.services.errors import Compacted, EtcdRefused, NewIncarnation

RANGES = [(b"a", b"b"), (b"b", b"c"), (b"a", b"z"), (b"b1", b"b2")]
KEYS = [b"a1", b"b1", b"b2", b"c1"]


class Streams:
    """An etcd, or a proxy before it, as it looks from a stream of watches: its events and the watches it has."""

    def __init__(self, *, proxy: bool) -> None:
        self.log: list[tuple[int, bytes]] = []  # revision and key, one revision may have several
        self.revision = 1
        self.compacted = 0
        self._proxy = proxy
        self._watches: dict[int, tuple[bytes, bytes, int]] = {}  # number → range and next revision
        self._unconfirmed: list[int] = []
        self._numbers = 0

    def write(self, keys: list[bytes]) -> None:
        self.revision += 1
        self.log += [(self.revision, key) for key in sorted(set(keys))]

    def begin(self) -> None:
        self._watches.clear()
        self._unconfirmed.clear()

    def request(self, request: Any) -> None:
        if request.HasField("cancel_request"):
            self._watches.pop(request.cancel_request.watch_id, None)
            return
        create = request.create_request
        number = self._numbers
        if not self._proxy:
            number = _watch_id(create)
        self._numbers += 1
        self._watches[number] = (create.key, create.range_end, create.start_revision)
        self._unconfirmed.append(number)

    def confirm(self, which: int) -> Any | None:
        if not self._unconfirmed:
            return None
        number = self._unconfirmed.pop(which % len(self._unconfirmed) if self._proxy else 0)
        return self._message(number, created=True)

    def send(self, which: int, fragments: int) -> list[Any]:
        """Send one watch what is due to it, in so many messages at most."""
        numbers = [number for number in self._watches if number not in self._unconfirmed]
        if not numbers:
            return []
        number = numbers[which % len(numbers)]
        key, end, start = self._watches[number]
        if start <= self.compacted:
            del self._watches[number]
            return [self._message(number, compact_revision=self.compacted + 1, canceled=True)]
        due = [(revision, each) for revision, each in self.log if revision >= start and key <= each < end]
        self._watches[number] = (key, end, self.revision + 1)
        size = max(1, -(-len(due) // fragments))
        parts = [due[at : at + size] for at in range(0, len(due), size)]
        return [self._events(number, part, more=part is not parts[-1]) for part in parts]

    def _message(self, number: int, **fields: Any) -> Any:
        return etcdrpc.WatchResponse(header={"revision": self.revision}, watch_id=number, **fields)

    def _events(self, number: int, part: list[tuple[int, bytes]], *, more: bool) -> Any:
        events = [{"kv": {"key": key, "mod_revision": revision}} for revision, key in part]
        message = self._message(number, events=events)
        return etcdrpc.WatchResponse.FromString(message.SerializeToString() + (b"\x38\x01" if more else b""))


def _watch_id(create: Any) -> int:
    fields: Any = UnknownFieldSet(create)
    return next(int(field.data) for field in fields if field.field_number == 7)


def taken(inbox: Inbox) -> list[Message]:
    messages = list(inbox._messages)
    inbox.clear()
    return messages


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.lists(st.sampled_from(KEYS), min_size=1, max_size=4)),
        st.tuples(st.just("confirm"), st.integers(0, 3)),
        st.tuples(st.just("send"), st.integers(0, 3)),
        st.tuples(st.just("cut"), st.integers(0, 3)),  # the stream breaks after one message of several
        st.tuples(st.just("break"), st.none()),
        st.tuples(st.just("compact"), st.none()),
    ),
    max_size=40,
)


@given(st.booleans(), STEPS)
def test_each_event_is_delivered_once_and_in_order(proxy: bool, steps: list[tuple[str, Any]]) -> None:
    etcd, table = Streams(proxy=proxy), WatchTable()
    inboxes = [Inbox() for _ in RANGES]
    delivered: list[list[tuple[int, bytes]]] = [[] for _ in RANGES]
    begun = [1 for _ in RANGES]  # the revision from which on each must have all events
    for (key, end), inbox in zip(RANGES, inboxes, strict=True):
        table.add(key, end, 2, inbox)

    def exchange(messages: list[Any]) -> None:
        for message in messages:
            table.receive(message)
        for request in table.take_requests():
            etcd.request(request)
        for number, inbox in enumerate(inboxes):
            for message in taken(inbox):
                if isinstance(message, Received):
                    delivered[number] += [(e.kv.mod_revision, e.kv.key.encode()) for e in message.batch.events]
                elif isinstance(message, Ended):  # its follower lists, and watches from there
                    assert isinstance(message.error, Compacted)
                    begun[number] = etcd.revision
                    table.add(*RANGES[number], etcd.revision + 1, inbox)

    def reopen() -> None:
        etcd.begin()
        table.reset()

    exchange([])
    for what, argument in [*steps, ("break", None), *[("confirm", 0), ("send", 0)] * 2]:
        match what:
            case "write":
                etcd.write(argument)
            case "confirm":
                exchange([message for message in [etcd.confirm(argument)] if message is not None])
            case "send":
                exchange(etcd.send(argument, fragments=3))
            case "cut":
                exchange(etcd.send(argument, fragments=3)[:1])
                reopen()
            case "break":
                reopen()
            case "compact":
                etcd.compacted = etcd.revision
        exchange([])
    for _ in range(20):  # in the end etcd confirms and sends everything
        exchange([message for message in [etcd.confirm(0)] if message is not None])
        for which in range(4):
            exchange(etcd.send(which, fragments=2))
    for number, (key, end) in enumerate(RANGES):
        got = delivered[number]
        assert got == sorted(set(got))
        assert [each for each in got if each[0] > begun[number]] == [
            each for each in etcd.log if each[0] > begun[number] and key <= each[1] < end
        ]
    assert all(inbox.unopened == 0 for inbox in inboxes)
    assert table.settled


def confirmed(request: Any, **fields: Any) -> Any:
    return etcdrpc.WatchResponse(watch_id=_watch_id(request.create_request), created=True, **fields)


def test_many_watches_are_requested_at_once_of_etcd_and_one_at_a_time_of_a_proxy() -> None:
    for proxy in (False, True):
        table, inbox = WatchTable(), Inbox()
        for _ in range(WINDOW + 10):
            table.add(b"a", b"b", 1, inbox)
        (first,) = table.take_requests()
        assert table.take_requests() == []
        table.receive(etcdrpc.WatchResponse(watch_id=0, created=True) if proxy else confirmed(first))
        assert len(table.take_requests()) == (1 if proxy else WINDOW)


def test_a_watch_that_is_discarded_before_its_confirmation_is_cancelled_after_it() -> None:
    table, inbox = WatchTable(), Inbox()
    watch = table.add(b"a", b"b", 1, inbox)
    (request,) = table.take_requests()
    table.discard(watch)
    assert inbox.unopened == 0
    table.receive(confirmed(request))
    (cancel,) = table.take_requests()
    assert cancel.cancel_request.watch_id == _watch_id(request.create_request)
    assert taken(inbox) == []
    assert table.settled


def test_a_refused_watch_gives_up_the_stream_once_and_then_itself() -> None:
    table, inbox, other = WatchTable(), Inbox(), Inbox()
    denied = table.add(b"a", b"b", 1, inbox)
    (request,) = table.take_requests()
    refusal = confirmed(request, canceled=True, cancel_reason="permission denied")
    with pytest.raises(EtcdRefused, match="permission denied"):
        table.receive(refusal)
    table.reset()
    table.add(b"c", b"d", 1, other)
    (request,) = table.take_requests()
    table.receive(confirmed(request, canceled=True, cancel_reason="permission denied"))
    (message,) = taken(inbox)
    assert isinstance(message, Ended)
    assert message.watch is denied
    (request,) = table.take_requests()
    table.receive(confirmed(request))
    assert [type(message) for message in taken(other)] == [Opened]


def test_an_event_of_a_revision_that_was_delivered_gives_up_the_stream() -> None:
    table, inbox = WatchTable(), Inbox()
    table.add(b"a", b"b", 5, inbox)
    (request,) = table.take_requests()
    table.receive(confirmed(request))
    number = _watch_id(request.create_request)
    with pytest.raises(EtcdRefused, match="from before"):
        table.receive(etcdrpc.WatchResponse(watch_id=number, events=[{"kv": {"key": b"a", "mod_revision": 4}}]))


async def test_all_watches_end_when_etcd_has_lost_its_data_and_a_crowded_inbox_holds_up_the_stream() -> None:
    table, inbox = WatchTable(), Inbox()
    for _ in range(100):
        table.add(b"a", b"b", 1, inbox)
    table.end_all(NewIncarnation())
    assert len(table) == 0
    waiting = asyncio.ensure_future(inbox.uncrowded())
    await asyncio.sleep(0)
    assert not waiting.done()
    messages = await inbox.take()
    assert all(isinstance(message, Ended) for message in messages)
    assert len(messages) == 100
    await waiting
    inbox.fail(KeyError("a bug"))
    with pytest.raises(RuntimeError):
        await inbox.take()


def test_a_silent_stream_is_dead_when_it_was_asked_in_vain_although_etcd_has_moved_on() -> None:
    silence = Silence(0.0, 7)
    assert silence.due(answers=True) == PROGRESS_SECONDS
    assert not silence.is_death(9)
    silence.asked(10.0)
    assert silence.due(answers=True) == 10.0 + STALL_SECONDS
    assert silence.due(answers=False) == 10.0 + RENEW_SECONDS  # perhaps a proxy, which does not answer
    assert not silence.is_death(7)
    assert silence.is_death(8)
    silence.broken(11.0, 8)
    assert not silence.is_death(9)
    assert silence.due(answers=True) == 11.0 + PROGRESS_SECONDS


# --- the history of etcd ------------------------------------------------------------------------------------------


class Store:
    """The keys of an etcd at each of its revisions."""

    def __init__(self, states: list[dict[bytes, Any]] | None = None) -> None:
        self.states = states or [{}, {}]

    @property
    def revision(self) -> int:
        return len(self.states) - 1

    def write(self, key: bytes, value: bytes | None) -> Any | None:
        """Put or delete the key, and return the event."""
        state, revision = dict(self.states[-1]), self.revision + 1
        if value is None:
            if state.pop(key, None) is None:
                return None
            event = {"type": "DELETE", "kv": {"key": key, "mod_revision": revision}}
        else:
            state[key] = {"key": key, "value": value, "mod_revision": revision}
            event = {"kv": state[key]}
        self.states.append(state)
        return etcdrpc.WatchResponse(events=[event]).events[0]

    def answer(self, requests: Sequence[Any]) -> list[Any]:
        found = [self.states[each.revision].get(each.key) for each in requests]
        return [etcdrpc.RangeResponse(kvs=[kv] if kv else []) for kv in found]


WRITES = st.lists(
    st.tuples(st.sampled_from([b"a", b"b"]), st.sampled_from([b"1", b"2", None])), min_size=1, max_size=12
)


@given(WRITES, WRITES, st.integers(0, 12))
def test_a_restored_etcd_is_known_by_its_witness_unless_it_has_the_same_history(
    before: list[tuple[bytes, bytes | None]], after: list[tuple[bytes, bytes | None]], kept: int
) -> None:
    etcd, history = Store(), History()
    for key, value in before:
        event = etcd.write(key, value)
        if event is not None:
            history.saw(event)
    if history.witness is None:
        return
    assert holds(history.witness, etcd.answer(witness_requests(history.witness)))
    restored = Store(etcd.states[: max(2, min(kept, len(etcd.states)))])
    for key, value in after:
        restored.write(key, value)
    revision = history.witness.revision
    if restored.revision < revision:
        assert history.check_revision(restored.revision, history.revision)
    elif restored.states[revision - 1 : revision + 1] != etcd.states[revision - 1 : revision + 1]:
        key = history.witness.key
        differs = [state.get(key) for state in restored.states[revision - 1 : revision + 1]] != [
            state.get(key) for state in etcd.states[revision - 1 : revision + 1]
        ]
        if not holds(history.witness, restored.answer(witness_requests(history.witness))):
            assert differs
        elif history.witness.value is not None:  # the same write happened at the same revision
            assert restored.states[revision][key] == etcd.states[revision][key]


def test_an_own_put_is_a_witness_as_well() -> None:
    put = etcdrpc.RequestOp(request_put=etcdrpc.PutRequest(key=b"k", value=b"v", lease=7))
    nested = etcdrpc.RequestOp(request_txn=etcdrpc.TxnRequest(success=[put]))
    history = History()
    for succeeded in (False, True):
        response = etcdrpc.TxnResponse(
            header={"revision": 5},
            succeeded=True,
            responses=[{"response_txn": {"succeeded": succeeded, "responses": [{}]}}],
        )
        history.wrote(etcdrpc.TxnRequest(success=[nested]), response, checked=True)
        assert (history.witness is not None) == succeeded
    assert history.witness == (5, b"k", b"v", 7)


def test_a_put_does_not_replace_a_witness_that_the_next_stream_has_to_check() -> None:
    def put(revision: int, *, checked: bool) -> int:
        request = etcdrpc.PutRequest(key=b"k", value=b"v", lease=7)
        history.wrote(request, etcdrpc.PutResponse(header={"revision": revision}), checked=checked)
        assert history.witness is not None
        return history.witness.revision

    history = History()
    assert put(5, checked=False) == 5  # there is nothing to check yet
    assert put(6, checked=False) == 5
    assert put(7, checked=True) == 7


def test_a_lower_revision_is_a_proof_in_a_linearizable_answer_and_a_doubt_in_any_other() -> None:
    history = History()
    assert history.check_cluster(1) is None
    assert history.check_revision(10, 0) is None
    assert not history.hear(10)
    assert history.hear(9)
    assert history.check_revision(9, 8) is None  # it was sent before revision 10 was known
    assert history.check_revision(9, 10)
    assert history.check_cluster(2)
    history.begin_anew()
    assert (history.revision, history.heard, history.incarnation) == (0, 0, 1)
    assert history.check_cluster(2) is None
