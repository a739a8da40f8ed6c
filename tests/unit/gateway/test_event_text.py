"""The texts of server-sent events, made once for all streams: they equal what each stream would get by itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pollcast.gateway.cohorts import Traffic
from pollcast.gateway.event_text import EventTexts, encoded
from pollcast.gateway.follower import Position, due
from pollcast.gateway.status import State, Status
from pollcast.gateway.topic import LiveTopic
from pollcast.gateway.version import Version
from pollcast.services.catalogue.catalog import Query
from pollcast.services.catalogue.topics import Topic
from pollcast.services.serving.http_guard import chunk_of

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
    texts = EventTexts(live)
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
