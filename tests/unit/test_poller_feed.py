"""The updates of one topic (poller/owned.py) and the queues of one gateway (poller/gateway_stream.py), without I/O."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.gateway.change import Change
from pollcast.gateway.feed_updates import Piece, decode
from pollcast.poller.gateway_stream import PART_BYTES, GatewayStream, messages
from pollcast.poller.owned import PIECE_BYTES, LargeUpdates, OwnedTopic, Updates
from pollcast.poller.sources.poll_error import PollError, Scope
from pollcast.services.catalogue import catalog
from pollcast.services.catalogue.topics import Topic
from pollcast.services.delta import Row, apply
from pollcast.services.errors import PollFailed, PollStale
from pollcast.v1 import feed_pb2

QUERIES = catalog.parse(
    '[queries.keyed]\nsql = "select 1 as id"\nkey = ["id"]\n[queries.keyless]\nsql = "select 1 as id"', "test.toml"
).queries


def owned(name: str = "keyed", epoch: int = 7) -> OwnedTopic:
    return OwnedTopic(Topic(name, QUERIES[name], {}), epoch, 500)


def rows(*values: int, size: int = 0) -> list[Row]:
    return [(b"[%d]" % n, b'{"id":%d%s}' % (n, b" " * size)) for n in values]


def keyless(*values: int, size: int = 0) -> list[Row]:
    return [(b"", row) for _, row in rows(*values, size=size)]


def read(updates: Updates) -> list[feed_pb2.FeedUpdate]:
    return [feed_pb2.FeedUpdate.FromString(update) for update in updates]


def rows_of(pieces: list[feed_pb2.FeedUpdate]) -> list[Row]:
    """Return the rows of a snapshot's pieces, as a gateway reads them."""
    bodies = [decode(piece).body for piece in pieces]
    assert all(isinstance(body, Piece) for body in bodies)
    return [row for body in bodies if isinstance(body, Piece) for row in body.rows]


def kinds(updates: list[feed_pb2.FeedUpdate]) -> list[str]:
    return [update.WhichOneof("body") or "" for update in updates]


STALE = PollError(PollStale("gone"), Scope.DATABASE)
FAILED = PollError(PollFailed("wrong"), Scope.TOPIC)


# --- one topic ----------------------------------------------------------------------------------------------------


def test_the_first_result_is_a_snapshot_and_later_ones_are_deltas() -> None:
    topic = owned()
    (first,) = read(topic.record_result(rows(1, 2), 1000))
    (second,) = read(topic.record_result(rows(2, 3), 2000))
    assert kinds([first, second]) == ["snapshot", "delta"]
    assert (first.epoch, first.seq, first.polled_at) == (7, 1, 1000)
    assert (second.epoch, second.seq, second.polled_at) == (7, 2, 2000)


def test_an_unchanged_result_gives_no_update_and_keeps_its_first_polled_at() -> None:
    topic = owned()
    topic.record_result(rows(1), 1000)
    assert topic.record_result(rows(1), 2000) == []
    assert (topic.seq, topic.polled_at) == (1, 1000)


def test_a_topic_without_errors_is_live_since_it_was_gained() -> None:
    (update,) = read([owned().status()])
    assert (update.status.state, update.status.since) == ("live", 500)


def test_an_error_keeps_the_last_result_and_is_reported_once() -> None:
    topic = owned()
    topic.record_result(rows(1), 1000)
    (update,) = read(topic.record_error(STALE, 2000))
    assert (update.seq, update.status.state, update.status.reason, update.status.since) == (1, "stale", "gone", 2000)
    assert topic.record_error(STALE, 3000) == []
    assert topic.rows == rows(1)
    (update,) = read(topic.record_error(FAILED, 4000))
    assert (update.status.state, update.status.since) == ("failed", 4000)


def test_after_an_error_the_new_result_comes_before_the_status_live() -> None:
    topic = owned()
    topic.record_result(rows(1), 1000)
    topic.record_error(STALE, 2000)
    assert kinds(read(topic.record_result(rows(2), 3000))) == ["delta", "status"]
    topic.record_error(STALE, 4000)
    assert kinds(read(topic.record_result(rows(2), 5000))) == ["status"]


@given(st.lists(st.integers(0, PIECE_BYTES // 2), max_size=6), st.sampled_from(["keyed", "keyless"]))
def test_the_pieces_of_a_snapshot_add_up_to_the_result(sizes: list[int], name: str) -> None:
    topic = owned(name)
    result = [(b"[%d]" % n if name == "keyed" else b"", b"{%b}" % (b"x" * size)) for n, size in enumerate(sizes)]
    pieces = read(topic.record_result(result, 1000))
    assert rows_of(pieces) == result
    assert [piece.snapshot.more for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    assert [piece.snapshot.number for piece in pieces] == list(range(len(pieces)))
    assert all(piece.ByteSize() < PIECE_BYTES * 1.1 for piece in pieces)


def test_a_large_snapshot_is_encoded_when_it_is_sent_and_reports_the_result_that_it_was_made_for() -> None:
    topic = owned("keyless")
    first, second = keyless(1, 2, size=PIECE_BYTES), keyless(3, size=PIECE_BYTES)
    updates = topic.record_result(first, 1000)
    assert isinstance(updates, LargeUpdates)
    assert updates.size > 2 * PIECE_BYTES
    changed = topic.record_result(second, 2000)
    topic.record_result(first, 3000)
    assert {(update.seq, update.polled_at) for update in read(changed)} == {(2, 2000)}
    for _ in range(2):  # once for each gateway
        pieces = read(updates)
        assert rows_of(pieces) == first
        assert {(piece.seq, piece.polled_at) for piece in pieces} == {(1, 1000)}


@given(st.lists(st.lists(st.integers(0, 9), unique=True), min_size=1))
def test_applied_updates_give_every_result_of_a_topic(results: list[list[int]]) -> None:
    topic = owned()
    known: list[Row] = []
    for at, result in enumerate(results):
        for update in read(topic.record_result(rows(*result), at)):
            if update.WhichOneof("body") == "snapshot":
                known = rows_of([update])
            else:
                change = Change.received(update.delta)
                known = apply([] if change.whole else known, change.delta)
                assert change.whole == (len(change.delta.upserts) == len(result))
        assert known == rows(*result)


# --- one gateway --------------------------------------------------------------------------------------------------


async def waiting(stream: GatewayStream) -> list[feed_pb2.FeedUpdate]:
    """Return all updates that the stream would send now."""
    updates: list[bytes] = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.02):
            async for batch in stream.batches():
                updates += batch
    return read(updates)


@pytest.fixture
def topic() -> OwnedTopic:
    topic = owned()
    topic.record_result(rows(1), 1000)
    return topic


async def test_a_gateway_that_reads_slowly_gets_the_current_state_instead_of_a_long_queue(topic: OwnedTopic) -> None:
    stream = GatewayStream({"keyed": topic}, limit=10_000)
    stream.attach("keyed", 7, 1)
    for at in range(2, 200):
        stream.push("keyed", topic.record_result(rows(at, size=1000), at))
        assert stream.queued <= 10_000 + 2000
    updates = await waiting(stream)
    assert kinds(updates) == ["snapshot", "status"]
    assert updates[0].seq == 199
    stream.push("keyed", topic.record_result(rows(1), 1))
    assert kinds(await waiting(stream)) == ["delta"]


async def test_a_topic_beyond_the_limit_does_not_drop_the_updates_of_others(topic: OwnedTopic) -> None:
    other = owned("keyless")
    other.record_result(rows(1), 1)
    stream = GatewayStream({"keyed": topic, "keyless": other}, limit=10_000)
    stream.attach("keyed", 7, 1)
    stream.attach("keyless", 7, 1)
    stream.push("keyless", other.record_result(rows(2), 2))
    for at in range(2, 50):
        stream.push("keyed", topic.record_result(rows(at, size=1000), at))
    assert [f.seq for f in await waiting(stream) if f.topic == "keyless" and f.HasField("snapshot")] == [2]


async def test_a_dropped_status_is_sent_with_the_snapshot(topic: OwnedTopic) -> None:
    stream = GatewayStream({"keyed": topic}, limit=1000)
    stream.attach("keyed", 7, 1)
    await waiting(stream)
    stream.push("keyed", topic.record_error(STALE, 5))
    stream.push("keyed", topic.record_result(rows(2, size=5000), 6))
    updates = await waiting(stream)
    assert kinds(updates) == ["snapshot", "status"]
    assert updates[1].status.state == "live"


async def test_the_pieces_of_two_snapshots_are_never_mixed(topic: OwnedTopic) -> None:
    topic.record_result([(b"[%d]" % n, b"x" * (PIECE_BYTES - 10)) for n in range(3)], 2)
    stream = GatewayStream({"keyed": topic}, limit=1000)
    stream.attach("keyed", 0, 0)
    sending = stream.batches()
    (first,) = read(await anext(sending))
    for at in range(3, 6):
        stream.push("keyed", topic.record_result(rows(at, size=2000), at))
    rest = await waiting(stream)
    assert [(f.seq, f.snapshot.more) for f in (first, *rest) if f.HasField("snapshot")] == [
        (2, True),
        (2, True),
        (2, False),
        (5, False),
    ]


async def test_an_update_carries_the_number_of_the_attachment_that_it_answers(topic: OwnedTopic) -> None:
    topic.record_result([(b"[%d]" % n, b"x" * (PIECE_BYTES - 10)) for n in range(3)], 2)
    stream = GatewayStream({"keyed": topic})
    stream.attach("keyed", 0, 0, 5)
    (first,) = read(stream.take())
    stream.attach("keyed", 0, 0, 6)
    stream.push("keyed", topic.record_result(rows(1), 3))
    rest = await waiting(stream)
    assert (first.attachment, first.snapshot.number) == (5, 0)
    assert [(f.attachment, f.seq, f.snapshot.number) for f in rest if f.HasField("snapshot")] == [(6, 3, 0)]
    assert {f.attachment for f in rest} == {6}


async def test_a_stream_with_nothing_to_send_has_a_heartbeat() -> None:
    async with asyncio.timeout(5):
        assert await anext(GatewayStream({}).batches()) == []


@given(st.lists(st.sampled_from([0, 1, 100, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES])))
def test_the_messages_of_a_batch_add_up_to_it_and_none_is_large(sizes: list[int]) -> None:
    batch = [feed_pb2.FeedUpdate(topic=chr(65 + n % 26) * size).SerializeToString() for n, size in enumerate(sizes)]
    received: list[bytes] = []
    parts = b""
    sent = list(messages(batch))
    for data in sent:
        message = feed_pb2.FeedUpdates.FromString(data)
        assert len(message.part) <= PART_BYTES
        received += [update.SerializeToString() for update in message.updates]
        parts += message.part
        if message.part and not message.more_parts:
            received.append(parts)
            parts = b""
    assert received == batch
    assert sent  # an empty batch is a heartbeat


async def test_topics_take_turns(topic: OwnedTopic) -> None:
    other = owned("keyless")
    other.record_result(rows(1), 1)
    topic.record_result([(b"[%d]" % n, b"x" * (PIECE_BYTES - 10)) for n in range(4)], 2)
    stream = GatewayStream({"keyed": topic, "keyless": other})
    stream.attach("keyed", 0, 0)
    stream.attach("keyless", 0, 0)
    assert "keyless" in [update.topic for update in (await waiting(stream))[:2]]


async def test_the_updates_of_a_lost_topic_are_dropped(topic: OwnedTopic) -> None:
    topics = {"keyed": topic}
    stream = GatewayStream(topics)
    stream.attach("keyed", 0, 0)
    del topics["keyed"]
    stream.forget("keyed")
    assert await waiting(stream) == []
    topics["keyed"] = again = owned(epoch=9)
    stream.push("keyed", again.record_result(rows(1), 1))
    assert [(f.epoch, f.WhichOneof("body")) for f in await waiting(stream)] == [(9, "snapshot"), (9, "status")]


async def test_a_topic_that_is_not_attached_is_not_sent(topic: OwnedTopic) -> None:
    stream = GatewayStream({"keyed": topic})
    stream.push("keyed", topic.record_result(rows(5), 5))
    stream.attach("keyed", 0, 0)
    stream.detach("keyed")
    assert await waiting(stream) == []
