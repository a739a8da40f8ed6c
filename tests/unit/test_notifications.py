"""Notifications of PostgreSQL: they become hints, none is lost, and memory is bounded."""

from __future__ import annotations

from collections import Counter
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.poller import notifications
from pollcast.poller.notifications import (
    LONGEST_RETRY_SECONDS,
    MAX_PAYLOAD_BYTES,
    MAX_PAYLOADS,
    REFUSED_RETRY_SECONDS,
    UNREADABLE,
    Channels,
    Heard,
    Ignored,
    Notifications,
    listen_statement,
    meant_by,
    retry_delay,
)
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.catalogue.topics import Topic, parse

CATALOG = catalogue.parse(
    """
[queries.regions]
sql = "select %(region)s::text as region, %(limit)s::int as n"
listen = "Orders changed"
params = { region = "text", limit = { type = "int", default = 10 } }

[queries.tenants]
sql = "select %(tenant)s as tenant, %(tags)s as tags, %(day)s as day"
listen = "Orders changed"
[queries.tenants.params]
tenant = { type = "text", claim = "tenant_id" }
tags = { type = "text[]", default = [] }
day = { type = "date", optional = true }

[queries.all]
sql = "select 1 as id"
listen = 'a"b'

[queries.deaf]
sql = "select 1 as id"
""",
    "c.toml",
)
REGIONS, TENANTS, ALL = (CATALOG.queries[name] for name in ("regions", "tenants", "all"))

payloads = st.sampled_from([b"", b"a=1", b"a=2", b"a=3", b"x" * 300, b"y" * 700])
channels = st.sampled_from([b"one", b"two"])
operations = st.lists(
    st.one_of(st.tuples(st.just("add"), channels, payloads), st.tuples(st.just("missed"), channels), st.just(("take",)))
)


@given(operations)
def test_every_notification_is_taken_once_and_counted(steps: list[tuple[object, ...]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notifications, "MAX_PAYLOADS", 3)
        patch.setattr(notifications, "MAX_PAYLOAD_BYTES", 1200)
        subject = Notifications()
        sent: dict[object, Counter[object]] = {}
        missed: set[object] = set()
        for step in (*steps, ("take",)):
            match step:
                case ("add", bytes(channel), bytes(payload)):
                    subject.add(channel, payload)
                    sent.setdefault(channel, Counter())[payload] += 1
                case ("missed", bytes(channel)):
                    subject.add_missed(channel)
                    missed.add(channel)
                case _:
                    taken = subject.take()
                    assert taken.keys() == sent.keys() | missed
                    for channel, heard in taken.items():
                        counts = sent.get(channel, Counter())
                        assert heard.times == counts.total()
                        assert heard.whole or heard.payloads == dict(counts)
                        if heard.whole:
                            assert not heard.payloads
                        if channel in missed or counts[b""]:
                            assert heard.whole
                        assert len(heard.payloads) <= 3
                    sent, missed = {}, set()
                    assert not subject
            assert subject.size <= 1200
        assert subject.size == 0


def test_a_flood_of_different_payloads_means_all_topics_and_takes_bounded_memory() -> None:
    subject = Notifications()
    for n in range(MAX_PAYLOADS):
        subject.add(b"one", b"n=%d" % n)
    assert len(subject._heard[b"one"].payloads) == MAX_PAYLOADS
    subject.add(b"one", b"n=-1")
    subject.add(b"one", b"n=-2")
    assert subject.size == 0
    assert subject.take() == {b"one": Heard(MAX_PAYLOADS + 2, whole=True)}
    for n in range(1000):
        subject.add(b"two", b"%8000d" % n)
        assert subject.size <= MAX_PAYLOAD_BYTES
    assert subject.take()[b"two"].whole


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@given(texts, st.integers(-5, 5) | st.none())
def test_the_part_of_a_topic_after_the_question_mark_means_the_topic(region: str, limit: int | None) -> None:
    spelling = urlencode({"region": region} | ({} if limit is None else {"limit": limit}))
    meant = meant_by(REGIONS, spelling.encode())
    assert isinstance(meant, Topic)
    assert meant.canonical == parse(f"regions?{spelling}", CATALOG, None).canonical
    assert meant_by(REGIONS, meant.canonical.partition("?")[2].encode()) == meant


def test_a_database_sends_the_values_of_claims_and_without_them_any_value_is_meant() -> None:
    assert meant_by(TENANTS, b"tenant=acme&tags=b&tags=a") == parse(
        "tenants?tags=a&tags=b", CATALOG, {"tenant_id": "acme"}
    )
    assert meant_by(TENANTS, b"day=2026-01-31") == {"tags": (), "day": "2026-01-31"}
    assert meant_by(TENANTS, b"tenant=acme") == parse("tenants", CATALOG, {"tenant_id": "acme"})


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"limit=1", "'region' (text) is missing"),
        (b"region=a&limit=x", "'x' is not an int"),
        (b"?region=a", "has no parameter '?region'"),
        (b"live:regions?region=a", "has no parameter"),
        (b"region=a&region=b", "given twice"),
        (b"region=a&", "a parameter is empty"),
        (b"region=\xff", "not valid UTF-8"),
        (b"region=%FF", "not valid UTF-8"),
        (b'{"region": "a"}', "has no parameter"),
    ],
)
def test_a_payload_that_is_no_part_of_a_topic_is_ignored_with_the_reason(payload: bytes, words: str) -> None:
    meant = meant_by(REGIONS, payload)
    assert isinstance(meant, Ignored)
    assert words in meant.reason


def test_no_reason_quotes_what_may_be_the_value_of_a_claim() -> None:
    for payload in (b"hunter2", b"hunter2=1", b"tenant=a&hunter2", b"day=hunter2"):
        assert meant_by(TENANTS, payload) == Ignored(UNREADABLE)


def test_a_query_without_parameters_takes_empty_payloads_only() -> None:
    assert isinstance(meant_by(ALL, b"region=a"), Ignored)


def test_queries_share_a_channel_and_channels_without_owned_topics_are_not_wanted() -> None:
    subject = Channels(CATALOG.queries.values())
    assert list(subject) == [b"Orders changed", b'a"b']
    assert [query.name for query in subject.queries(b"Orders changed")] == ["regions", "tenants"]
    assert subject.queries(b"other") == []
    assert subject.wanted(lambda name: name in ("tenants", "deaf")) == {b"Orders changed"}
    assert subject.wanted(lambda name: name == "deaf") == frozenset()


def test_channels_are_identifiers_in_double_quotes() -> None:
    assert listen_statement([b'a"b', b"A; drop table t"], [b"x"]) == (
        b'unlisten "x"; listen "A; drop table t"; listen "a""b"'
    )


@given(st.integers(1, 5000), st.floats(0, 1, exclude_max=True))
def test_attempts_become_rarer_but_never_too_rare(failures: int, random: float) -> None:
    delay = retry_delay(failures, random, refused=False)
    assert 0.05 <= delay <= LONGEST_RETRY_SECONDS
    assert delay <= retry_delay(failures + 1, random, refused=False)
    assert REFUSED_RETRY_SECONDS / 2 <= retry_delay(failures, random, refused=True) <= REFUSED_RETRY_SECONDS
