"""The channels of one topic: whenever they join, leave or fall behind, all end at the present rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.gateway.audience import Audience
from pollcast.gateway.change import Change
from pollcast.gateway.cohorts import Traffic
from pollcast.gateway.history import History
from pollcast.gateway.status import Status
from pollcast.gateway.version import Version
from pollcast.services.delta import Row, diff
from tests.support.audience_clients import Client, Later
from tests.support.keyed_rows import rows


def json_rows(given: list[Row]) -> list[Any]:
    """Return the rows as clients know them."""
    return [orjson.loads(r) for _, r in given]


def test_waiting_channels_get_the_first_result() -> None:
    history = History(["id"])
    audience = Audience(history, Traffic())
    client = Client()
    audience.join(client, None)
    assert client.events == []
    history.take_snapshot(Version(1, 1), 0, rows((1, 1)))
    audience.serve()
    assert client.events == ["snapshot"]


def served() -> tuple[History, Audience]:
    """Return a history with a first result and an audience that serves it."""
    history = History(["id"])
    audience = Audience(history, Traffic())
    history.take_snapshot(Version(1, 1), 0, rows((1, 1)))
    audience.serve()
    return history, audience


def test_a_congested_client_gets_nothing_until_it_catches_up_with_one_snapshot() -> None:
    history, audience = served()
    slow, quick = Client(), Client()
    audience.join(slow, None)
    audience.join(quick, None)
    slow.blocked = True
    for seq in range(2, 6):
        entry = history.take_snapshot(Version(1, seq), 0, rows((1, seq)))
        assert entry is not None
        audience.step(entry)
    assert slow.behind
    assert slow.events == ["snapshot"]
    assert quick.events == ["snapshot", *["delta"] * 4]
    slow.drain(audience, Status("live", None, 0))
    assert slow.events == ["snapshot", "snapshot"]
    assert slow.rows == quick.rows == json_rows(rows((1, 5)))


def test_a_cohort_that_falls_behind_takes_nothing_from_another_cohort() -> None:
    history, audience = served()
    slow, quick = Client(), Client()
    audience.join(slow, None)
    history.take_snapshot(Version(2, 1), 0, rows((1, 1)))  # another owner, the same result
    audience.join(quick, None)
    slow.blocked = True
    for seq in (2, 3):
        entry = history.take_snapshot(Version(2, seq), 0, rows((1, seq)))
        assert entry is not None
        audience.step(entry)
    assert slow.behind
    assert quick.events == ["snapshot", "delta", "delta"]
    assert quick.rows == json_rows(rows((1, 3)))


@pytest.mark.parametrize(
    ("meanwhile", "pushed"),
    [
        ([Status("stale", "database_unreachable", 1)], ["status"]),
        ([Status("stale", "database_unreachable", 1), Status("live", None, 2)], []),
    ],
)
def test_a_channel_that_catches_up_gets_the_status_if_it_knows_another(
    meanwhile: list[Status], pushed: list[str]
) -> None:
    history = History(["id"])
    audience = Audience(history, Traffic())
    history.take_snapshot(Version(1, 1), 0, rows((1, 1)))
    audience.serve()
    slow = Client()
    audience.join(slow, None)
    slow.blocked = True
    status = Status("live", None, 0)
    for new in meanwhile:
        audience.broadcast_status(new, status)
        status = new
    slow.drain(audience, status)
    assert slow.events == ["snapshot", *pushed, "snapshot"]


RESULTS = st.dictionaries(st.integers(0, 4), st.integers(0, 3), max_size=4)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("change"), RESULTS),
        st.tuples(st.just("delta"), RESULTS),
        st.tuples(st.just("takeover"), RESULTS),
        st.tuples(st.just("takeover unchanged"), st.none()),
        st.tuples(st.just("join"), st.tuples(st.booleans(), st.sampled_from([b'"live:q"', b'"live:q?"']))),
        st.tuples(st.just("rejoin with since"), st.integers(0, 7)),
        st.tuples(st.just("leave"), st.integers(0, 7)),
        st.tuples(st.just("congest"), st.integers(0, 7)),
        st.tuples(st.just("drain"), st.integers(0, 7)),
        st.tuples(st.just("go on"), st.none()),
    ),
    max_size=60,
)


@contextlib.contextmanager
def limits(*, large: bool) -> Iterator[None]:
    """Make every message large, and every cohort of more than two members, inside the scope."""
    with pytest.MonkeyPatch.context() as patch:
        if large:
            patch.setattr("pollcast.gateway.history.LARGE_ROWS", -1)
            patch.setattr("pollcast.gateway.history.LARGE_BYTES", 0)
            patch.setattr("pollcast.gateway.outbound_frames.COPIED_BYTES", 0)
            patch.setattr("pollcast.gateway.cohorts.AT_ONCE_MEMBERS", 2)
            patch.setattr("pollcast.gateway.audience.AT_ONCE_MEMBERS", 2)
            patch.setattr("pollcast.gateway.cohorts.SLICE_MEMBERS", 2)
        yield


@given(actions, st.booleans())
def test_every_client_ends_at_the_present_rows_whatever_joins_leaves_or_lags(
    script: list[tuple[str, Any]], large: bool
) -> None:
    with limits(large=large):
        history, offload = History(["id"]), Later()
        audience = Audience(history, Traffic(), offload)
        clients = play(script, history, audience, offload)
        while offload.go_on():
            pass
    for client in clients:
        if history.present is not None and not client.behind:
            assert client.rows == json_rows(list(history.present.rows))
            if not client.deltas:
                assert "delta" not in client.events


def play(script: list[tuple[str, Any]], history: History, audience: Audience, offload: Later) -> list[Client]:
    """Do what the script says, and return the clients. Whatever is applied late equals what is applied at once."""
    clients: list[Client] = []
    epoch, seq = 1, 0
    known: list[Row] | None = None
    for action, argument in script:
        client = clients[argument % len(clients)] if isinstance(argument, int) and clients else None
        if action in ("change", "delta", "takeover", "takeover unchanged"):
            if action in ("change", "delta"):
                seq += 1
            else:
                epoch, seq = epoch + 3, 1
            result = rows(*argument.items()) if argument is not None else known or []
            delta = diff(known, result) if known is not None else None
            if action == "delta" and delta is not None:
                entry = history.take_delta(Version(epoch, seq), 0, Change.of(delta))
            else:
                entry = history.take_snapshot(Version(epoch, seq), 0, result)
            known = result
            if entry is not None and entry.change is not None:
                audience.step(entry)
            if not audience.serving:
                audience.serve()
        elif action == "join":
            client = Client(argument[1], argument[0])
            clients.append(client)
            audience.join(client, None)
        elif action == "go on":
            offload.go_on()
        elif client is None:
            continue
        elif action == "rejoin with since":
            audience.leave(client)
            client.blocked, client.behind = False, 0
            since = Version.parse(client.version) if client.version is not None else None
            audience.join(client, since)
        elif action == "leave":
            audience.leave(client)
            clients.remove(client)
        elif action == "congest":
            client.blocked = True
        elif client.blocked:
            client.drain(audience, Status("live", None, 0))
    assert known == (None if history.present is None else history.present.rows)
    return clients


def test_a_topic_that_changes_faster_than_it_is_encoded_starves_nobody() -> None:
    with limits(large=True):
        history, offload = History([]), Later()
        audience = Audience(history, Traffic(), offload)
        history.take_snapshot(Version(1, 1), 0, rows((1, 0)))
        audience.serve()
        first, late = Client(), Client()
        audience.join(first, None)
        for seq in range(2, 50):
            entry = history.take_snapshot(Version(1, seq), 0, rows((1, seq)))
            assert entry is not None
            audience.step(entry)
            if seq == 10:
                audience.join(late, None)
            if seq % 5 == 0:
                offload.go_on()
                assert len(offload.works) == 1
        assert len(first.events) >= 4
        assert len(late.events) >= 3
        while offload.go_on():
            pass
        assert first.rows == late.rows == json_rows(rows((1, 49)))
