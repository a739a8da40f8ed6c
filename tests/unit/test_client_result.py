"""The Python client's pure parts: results, deltas, members, topics, messages and channels."""

from __future__ import annotations

import json
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.services.auth.tokens import bearer_from_subprotocols
from pollcast.services.delta import diff
from pollcast_client import ProtocolViolated, Refused, Result, topic
from pollcast_client.channel import Channel
from pollcast_client.phoenix import Message, decode, socket_url, subprotocols
from pollcast_client.presence import Presence

AT = "2026-01-01T00:00:00Z"


def snapshot(rows: list[dict[str, Any]], version: str = "1-1", key: tuple[str, ...] = ("id",)) -> dict[str, Any]:
    return {"version": version, "polled_at": AT, "key": list(key), "rows": rows}


def delta(deletes: list[list[Any]], upserts: list[tuple[int, dict[str, Any]]], base: str = "1-1") -> dict[str, Any]:
    wire = [{"at": at, "row": row} for at, row in upserts]
    return {"version": "1-2", "base": base, "polled_at": AT, "deletes": deletes, "upserts": wire}


rows_of = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), max_size=20, unique_by=lambda pair: pair[0]).map(
    lambda pairs: [{"id": key, "n": n} for key, n in pairs]
)


@given(rows_of, rows_of)
def test_the_pollers_delta_leads_from_any_result_to_any_other_result(
    before: list[dict[str, Any]], after: list[dict[str, Any]]
) -> None:
    def encoded(rows: list[dict[str, Any]]) -> list[tuple[bytes, bytes]]:
        return [(json.dumps([row["id"]]).encode(), json.dumps(row).encode()) for row in rows]

    change = diff(encoded(before), encoded(after))
    if change is None:
        assert before == after
        return
    payload = delta([json.loads(key) for key in change.deletes], [(at, json.loads(r)) for at, _, r in change.upserts])
    result, _ = Result.of_snapshot(snapshot(before)).after(payload)
    assert result.rows == after
    assert result.version == "1-2"


def test_a_delta_leaves_the_result_to_which_it_is_applied_unchanged() -> None:
    before = Result.of_snapshot(snapshot([{"id": 1}, {"id": 2}]))
    before.after(delta([[1]], [(0, {"id": 3})]))
    assert before.rows == [{"id": 1}, {"id": 2}]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (delta([[1]], [], base="1-0"), "1-1 is known"),
        (delta([], []), "empty"),
        (delta([[7]], []), "not there"),
        (delta([[1], [1]], []), "twice"),
        (delta([[1]], [(0, {"id": 1})]), "twice"),
        (delta([], [(1, {"id": 5}), (0, {"id": 6})]), "ascend"),
        (delta([], [(0, {"id": 5}), (0, {"id": 6})]), "ascend"),
        (delta([], [(3, {"id": 5})]), "beyond"),
        (delta([], [(0, {"n": 5})]), "not a delta"),
        ({"version": "1-2"}, "not a delta"),
    ],
)
def test_a_delta_that_does_not_fit_the_result_is_never_applied(payload: dict[str, Any], reason: str) -> None:
    with pytest.raises(ProtocolViolated, match=reason):
        Result.of_snapshot(snapshot([{"id": 1}, {"id": 2}])).after(payload)


def test_key_columns_may_hold_json_and_arrays() -> None:
    rows = [{"id": {"a": [1]}, "n": 1}, {"id": [1, 2], "n": 2}]
    result, _ = Result.of_snapshot(snapshot(rows)).after(delta([[[1, 2]]], []))
    assert result.rows == rows[:1]


def test_a_snapshot_with_the_same_key_twice_is_refused() -> None:
    with pytest.raises(ProtocolViolated, match="twice"):
        Result.of_snapshot(snapshot([{"id": 1}, {"id": 1}]))


def test_a_delta_for_a_query_without_a_key_is_refused() -> None:
    result = Result.of_snapshot(snapshot([{"n": 1}, {"n": 1}], key=()))
    with pytest.raises(ProtocolViolated, match="without a key"):
        result.after(delta([[1]], []))


def test_a_topics_parameters_are_form_encoded() -> None:
    assert topic("orders") == "live:orders"
    assert topic("orders", region="a b&c", limit=5, all=True) == "live:orders?region=a+b%26c&limit=5&all=true"
    zone = timezone(timedelta(hours=2))
    spelled = topic("x", at=datetime(2026, 1, 1, 2, tzinfo=zone), on=date(2026, 1, 1), f=1e-7, n=Decimal("1.50"))
    assert spelled == "live:x?at=2026-01-01T00%3A00%3A00Z&on=2026-01-01&f=1e-07&n=1.50"
    assert topic("orders", regions=["a b", "c"], ids=(2, 1), none=[], absent=None) == (
        "live:orders?regions=a+b&regions=c&ids=2&ids=1"
    )
    assert topic("orders", regions={"a"}, open=frozenset({True})) == "live:orders?regions=a&open=true"
    assert topic("orders", regions=[], absent=None) == "live:orders"
    assert topic("orders", regions=[""]) == "live:orders?regions="
    assert topic("x", id=UUID(int=1)) == "live:x?id=00000000-0000-0000-0000-000000000001"
    with pytest.raises(ValueError, match="time zone"):
        topic("x", at=datetime(2026, 1, 1))


@pytest.mark.parametrize(
    "url",
    [
        "h:1",
        "http://h:1",
        "ws://h:1/",
        "http://h:1/socket",
        "ws://h:1/socket/websocket",
        "ws://h:1/socket/websocket?vsn=1.0.0",
    ],
)
def test_every_spelling_of_a_gateways_address_gives_the_same_socket(url: str) -> None:
    assert socket_url(url) == "ws://h:1/socket/websocket?vsn=2.0.0"


def test_a_malformed_address_is_refused() -> None:
    with pytest.raises(ValueError, match="address of a gateway"):
        socket_url("ftp://h")
    assert socket_url("https://h/live") == "wss://h/live/socket/websocket?vsn=2.0.0"


@given(st.text(min_size=1))
def test_the_gateway_decodes_the_token_in_the_clients_subprotocols(token: str) -> None:
    assert bearer_from_subprotocols(subprotocols(token)) == token


def member(ref: str) -> dict[str, Any]:
    return {"metas": [{"phx_ref": ref, "online_at": AT}]}


def refs(presence: Presence) -> dict[str, list[str]]:
    return {key: [meta["phx_ref"] for meta in metas] for key, metas in presence.listed.items()}


def test_a_presence_diff_adds_and_removes_metas_by_ref() -> None:
    presence = Presence()
    presence.take_state({"alice": member("1")})
    presence.take_diff({"joins": {"alice": member("2"), "bob": member("3")}, "leaves": {}})
    presence.take_diff({"joins": {}, "leaves": {"alice": member("1"), "carol": member("9")}})
    assert refs(presence) == {"alice": ["2"], "bob": ["3"]}
    presence.take_diff({"joins": {}, "leaves": {"bob": member("3")}})
    assert refs(presence) == {"alice": ["2"]}


def test_a_presence_diff_before_the_state_is_applied_to_the_state() -> None:
    presence = Presence()
    assert not presence.take_diff({"joins": {"bob": member("2")}, "leaves": {"alice": member("1")}})
    presence.take_state({"alice": member("1")})
    assert refs(presence) == {"bob": ["2"]}


def reply(ref: str, status: str, response: dict[str, Any]) -> Message:
    return Message(ref, ref, "live:a", "phx_reply", {"status": status, "response": response})


def test_a_channel_joins_again_with_its_version() -> None:
    channel = Channel("live:a", deltas=True, presence=None)
    assert channel.join("1").payload == {}
    assert channel.take(reply("1", "ok", {})) == []
    [change] = channel.take(Message(None, None, "live:a", "snapshot", snapshot([{"id": 1}])))
    assert (change.kind, change.rows, change.version) == ("snapshot", [{"id": 1}], "1-1")
    [lost] = channel.disconnect("gone", AT)
    assert (lost.kind, lost.status.state, lost.rows) == ("status", "stale", [{"id": 1}])
    assert channel.disconnect("still gone", AT) == []
    assert channel.join("2").payload == {"since": "1-1"}
    assert channel.take(reply("1", "ok", {})) == []
    [back] = channel.take(reply("2", "ok", {}))
    assert (back.kind, back.status.state, back.rows) == ("status", "live", [{"id": 1}])


def test_a_refused_join_raises_except_for_too_many_joins_after_which_it_is_repeated() -> None:
    channel = Channel("live:a", deltas=False, presence={"key": "alice"})
    assert channel.join("1").payload == {"deltas": False, "presence": {"key": "alice"}}
    assert channel.take(reply("1", "error", {"reason": "too_many_joins", "detail": "slow down"})) == []
    assert channel.rejoin
    channel.join("2")
    assert not channel.rejoin
    with pytest.raises(Refused) as refused:
        channel.take(reply("2", "error", {"reason": "unknown_query", "detail": "no"}))
    assert (refused.value.reason, refused.value.topic) == ("unknown_query", "live:a")


def test_a_channel_that_the_gateway_closed_is_joined_again() -> None:
    channel = Channel("live:a", deltas=True, presence=None)
    channel.join("1")
    channel.take(reply("1", "ok", {}))
    channel.take(Message("1", None, "live:a", "phx_error", {}))
    assert channel.rejoin


def test_a_message_decodes_to_what_was_encoded() -> None:
    message = Message("1", "2", "live:a", "phx_join", {"é": None})
    assert decode(message.encode()) == message
    for text in ("", "{}", "[1,2]", "null"):
        with pytest.raises(ProtocolViolated):
            decode(text)
