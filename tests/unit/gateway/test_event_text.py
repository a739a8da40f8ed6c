"""The texts of server-sent events, made once for all streams: they equal what each stream would get by itself."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.gateway.cohorts import Traffic
from pollcast.gateway.event_stream import Stream, Streams
from pollcast.gateway.event_text import EventTexts, encoded
from pollcast.gateway.follower import Position, due
from pollcast.gateway.offload import INLINE, Inline
from pollcast.gateway.status import State, Status
from pollcast.gateway.topic import LiveTopic
from pollcast.gateway.version import Version
from pollcast.services.catalogue.query import Query
from pollcast.services.catalogue.topics import Topic
from pollcast.services.serving.http_guard import chunk_of
from tests.support.audience_clients import Later

TOPIC = Topic("q", Query("q", "select 1 as id", key=("id",)), {})

STATES: list[State] = ["live", "stale", "failed"]

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("rows"), st.lists(st.integers(0, 5), max_size=4, unique=True)),
        st.tuples(st.just("status"), st.sampled_from(STATES)),
        st.tuples(st.just("owner"), st.none()),
        st.tuples(st.just("read"), st.integers(0, 3)),
        st.tuples(st.just("come"), st.integers(0, 3)),
    ),
    max_size=40,
)


@given(STEPS)
def test_streams_that_share_texts_get_what_each_would_get_alone(steps: list[tuple[str, object]]) -> None:
    live = LiveTopic(TOPIC, Traffic())
    texts = EventTexts(live, INLINE)
    shared = [Position() for _ in range(4)]
    alone = list(shared)
    epoch, seq = 1, 0
    for number, (step, value) in enumerate(steps):
        if step == "rows":
            assert isinstance(value, list)
            seq += 1
            rows = [(b"[%d]" % i, b'{"id":%d,"n":%d}' % (i, number)) for i in value]
            live.take_snapshot(Version(epoch, seq), number, rows)
        elif step == "status":
            live.take_status(Status(value, None if value == "live" else "why", number))  # type: ignore[arg-type]
        elif step == "owner":
            epoch, seq = epoch + 1, 0
        elif step == "come":
            assert isinstance(value, int)
            shared[value] = alone[value] = Position(since=shared[value].version)
        else:
            assert isinstance(value, int)
            chunk, shared[value] = texts.after(shared[value])
            events, after = due(live, alone[value], True)
            text = encoded(events, alone[value].version or alone[value].since)
            alone[value] = after
            assert chunk == (chunk_of(text) if text else b"")
            assert shared[value] == after


class Connection:
    """A connection that keeps the chunks that are written to it."""

    def __init__(self) -> None:
        self.blocked = False
        self.chunks: list[bytes] = []

    def chunk_writer(self) -> Callable[[bytes], None]:
        """Return a function that keeps a chunk."""
        return self.chunks.append

    @property
    def seqs(self) -> list[int]:
        """The sequence numbers of the versions that were sent."""
        return [int(found) for chunk in self.chunks for found in re.findall(rb"^id: 1-(\d+)$", chunk, re.MULTILINE)]


@pytest.mark.parametrize("offload", [Later(), INLINE])
def test_a_large_text_is_made_outside_the_loop_and_starves_no_stream(
    monkeypatch: pytest.MonkeyPatch, offload: Later | Inline
) -> None:
    monkeypatch.setattr("pollcast.gateway.history.LARGE_ROWS", -1)
    monkeypatch.setattr("pollcast.gateway.history.LARGE_BYTES", 0)
    live = LiveTopic(TOPIC, Traffic())
    streams = live.streams = Streams(live, EventTexts(live, offload), offload)
    first, late = Connection(), Connection()
    streams.members[Stream(streams, first, None)] = None
    for seq in range(1, 20):  # the topic changes faster than its texts are made
        live.take_snapshot(Version(1, seq), 0, [(b"[1]", b'{"id":1,"n":%d}' % seq)])
        if isinstance(offload, Later):
            assert len(offload.works) == 1
            if seq % 3 == 0:
                offload.go_on()
    assert len(first.chunks) >= 4
    stream = Stream(streams, late, None)
    streams.members[stream] = None
    stream.wake()
    while isinstance(offload, Later) and offload.go_on():
        pass
    for connection in (first, late):
        assert connection.seqs == sorted(set(connection.seqs))
        assert connection.seqs[-1] == 19


def test_a_change_while_a_large_text_is_made_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pollcast.gateway.history.LARGE_ROWS", -1)
    monkeypatch.setattr("pollcast.gateway.history.LARGE_BYTES", 0)
    offload, live, connection = Later(), LiveTopic(TOPIC, Traffic()), Connection()
    streams = live.streams = Streams(live, EventTexts(live, offload), offload)
    streams.members[Stream(streams, connection, None)] = None
    for seq in (1, 2):  # the second comes before the text of the first is made, and nothing changes after it
        live.take_snapshot(Version(1, seq), 0, [(b"[1]", b'{"id":1,"n":%d}' % seq)])
    while offload.go_on():
        pass
    assert connection.seqs == [1, 2]
