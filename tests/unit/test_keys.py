"""Keys and values in etcd, letter by letter (docs/reference/etcd.md#keys)."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.services.coordination.keys import (
    CatalogueRecord,
    DemandRecord,
    Foreign,
    Keys,
    LeaderRecord,
    NodeRecord,
    OwnerRecord,
    PresenceRecord,
    Record,
    lease_hex,
)

KEYS = Keys("/pollcast")
TOPICS = st.from_regex(r"\A[a-z][a-z0-9_]*(\?[a-z]+=[A-Za-z0-9%~._-]*)?\Z")
NAMES = st.from_regex(r"\A[A-Za-z0-9._-]+\Z")
NODE = NodeRecord(
    "p1",
    "poller",
    None,
    "127.0.0.1:5000",
    7,
    "0.1.0",
    "2026-01-01T00:00:00.000000Z",
    "694da206e03b1c07",
    "ready",
    "c0ffee",
)


def test_keys_are_spelled_as_documented() -> None:
    assert KEYS.node("gateway", "gw1") == "/pollcast/nodes/gateway/gw1"
    assert KEYS.demand("q?a=1", "gw1") == "/pollcast/demand/q?a=1/gw1"
    assert KEYS.owner("q?a=1") == "/pollcast/owners/q?a=1"
    assert KEYS.presence("q", "gw1", "F-1") == "/pollcast/presence/q/gw1/F-1"
    assert KEYS.catalogue("poller", "p1") == "/pollcast/catalogues/poller/p1"
    assert KEYS.leader == "/pollcast/leader"


@given(TOPICS, NAMES, NAMES)
def test_a_key_that_is_built_is_parsed(topic: str, node: str, ref: str) -> None:
    assert KEYS.parse_demand(KEYS.demand(topic, node)) == (topic, node)
    assert KEYS.parse_owner(KEYS.owner(topic)) == topic
    assert KEYS.parse_presence(KEYS.presence(topic, node, ref)) == (topic, node, ref)
    assert KEYS.parse_node(KEYS.node("poller", node)) == ("poller", node)
    assert KEYS.parse_catalogue(KEYS.catalogue("poller", node)) == ("poller", node)
    assert KEYS.catalogue("poller", node).startswith(KEYS.catalogues_of("poller"))
    assert KEYS.demand(topic, node).startswith(KEYS.demands(topic))
    assert KEYS.presence(topic, node, ref).startswith(KEYS.presences(topic))


@given(st.text())
def test_parsing_any_key_does_not_raise(rest: str) -> None:
    for kind in ("demand", "owners", "presence", "nodes", ""):
        key = f"/pollcast/{kind}/{rest}"
        for parse in (KEYS.parse_demand, KEYS.parse_owner, KEYS.parse_presence, KEYS.parse_node):
            parse(key)


@pytest.mark.parametrize(
    "key", ["/pollcast/owners/", "/pollcast/owners/A", "/pollcast/owners/a/b", "/pollcast/owner/a", "/other/owners/a"]
)
def test_a_foreign_key_is_not_parsed(key: str) -> None:
    assert KEYS.parse_owner(key) is None


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (
            NODE,
            '{"node":"p1","role":"poller","http":null,"grpc":"127.0.0.1:5000","pid":7,"version":"0.1.0",'
            '"started_at":"2026-01-01T00:00:00.000000Z","lease":"694da206e03b1c07","state":"ready","catalogue":"c0ffee"}',
        ),
        (DemandRecord("gw1", "t"), '{"gateway":"gw1","since":"t"}'),
        (OwnerRecord("p1", "h:1", "t"), '{"node":"p1","grpc":"h:1","since":"t"}'),
        (PresenceRecord("alice", {"a": [1]}, "t"), '{"key":"alice","meta":{"a":[1]},"online_at":"t"}'),
        (LeaderRecord("c1"), '{"node":"c1"}'),
        (CatalogueRecord("c0ffee", {"q": "12ab"}), '{"catalogue":"c0ffee","queries":{"q":"12ab"}}'),
    ],
)
def test_values_are_one_line_of_json_in_the_documented_order(record: Record, text: str) -> None:
    assert record.encode() == text.encode()
    assert type(record).decode(record.encode()) == record


def test_unknown_fields_are_ignored() -> None:
    assert LeaderRecord.decode(b'{"more":1,"node":"c1"}') == LeaderRecord("c1")


@pytest.mark.parametrize("field", ["node", "role", "http", "grpc", "pid", "version", "started_at", "lease", "state"])
@pytest.mark.parametrize("wrong", [True, 1.5, [], "lacking"])
def test_a_garbled_field_raises_value_error(field: str, wrong: object) -> None:
    found = orjson.loads(NODE.encode())
    if wrong == "lacking":
        del found[field]
    else:
        found[field] = wrong
    with pytest.raises(ValueError, match=field):
        NodeRecord.decode(orjson.dumps(found))


@given(st.binary())
def test_any_bytes_raise_nothing_but_value_error(value: bytes) -> None:
    for kind in (NodeRecord, DemandRecord, OwnerRecord, PresenceRecord, LeaderRecord):
        with pytest.raises(ValueError):  # noqa: PT011 - with any text
            kind.decode(value)


def test_a_lease_is_formatted_as_etcdctl_prints_it() -> None:
    assert lease_hex(0x694DA206E03B1C07) == "694da206e03b1c07"
    assert lease_hex(0xA) == "000000000000000a"
    assert NODE.lease_number == 0x694DA206E03B1C07


def test_a_foreign_key_is_reported_once_until_it_changes(capsys: pytest.CaptureFixture[str]) -> None:
    foreign = Foreign()
    for revision in (1, 1, 2):
        foreign.report("/pollcast/x\udcff", revision, "garbled")
    foreign.forget("/pollcast/x\udcff")
    foreign.report("/pollcast/x\udcff", 2, "garbled")
    out = capsys.readouterr()
    assert (out.out + out.err).count("ignoring a foreign key") == 3
