"""Versions of topics that one client could take for each other: they differ, also under one epoch."""

from __future__ import annotations

import itertools

from pollcast.coordinator.topicview import RATE_SECONDS, OwnerView, TopicView
from pollcast.poller.polling import Polling
from pollcast.poller.postgresql.kind import only_source
from pollcast.poller.sources.database import Database
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.catalogue.in_force import CatalogueInForce
from pollcast.v1 import report_pb2

CATALOG = """
[queries.mine]
sql = "select id from t where tenant = %(tenant)s"
[queries.mine.params]
tenant = { type = "text", claim = "tenant_id" }

[queries.some]
sql = "select id from t limit %(most)s"
[queries.some.params]
most = { type = "int", default = 10 }
"""

EPOCH = 7


def polling_on(text: str) -> Polling:
    return Polling(catalogue.parse(text, "test"), only_source(Database(None, 1)))  # type: ignore[arg-type]


def seq_of(polling: Polling, topic: str) -> int:
    found = polling.find(topic)
    assert found is not None
    return found[0].seq


async def test_topics_of_one_spelling_for_several_tenants_have_no_version_in_common_under_one_epoch() -> None:
    polling = polling_on(CATALOG)
    tenants = [f"mine?tenant=t{number}" for number in range(100)]
    for topic in tenants:
        polling.gained(topic, EPOCH)
    counted_from = sorted(seq_of(polling, topic) for topic in tenants)
    assert min(after - before for before, after in itertools.pairwise(counted_from)) > 1000


async def test_a_topic_that_is_the_same_for_everybody_counts_its_versions_from_1() -> None:
    polling = polling_on(CATALOG)
    polling.gained("some?most=10", EPOCH)
    assert seq_of(polling, "some?most=10") == 0


def take(polling: Polling, before: Catalog, after: Catalog) -> None:
    """Have the poller take a catalogue over from the one before."""
    in_force = CatalogueInForce(before)
    polling.take(in_force, in_force.replace(CatalogueInForce(after)))


async def test_no_version_of_a_former_definition_names_a_result_of_the_present_one_in_the_same_spelling() -> None:
    polling = polling_on(CATALOG)
    topics = ["some?most=10", "some?most=20"]
    for topic in topics:
        polling.gained(topic, EPOCH)
    before = polling.catalog
    after = catalogue.parse(CATALOG.replace("default = 10", "default = 20"), "test")
    take(polling, before, after)
    first, second = sorted(seq_of(polling, topic) for topic in topics)
    assert first > 1000
    assert second - first > 1000


async def test_a_definition_that_comes_back_goes_on_with_higher_versions() -> None:
    polling = polling_on(CATALOG)
    polling.gained("some?most=10", EPOCH)
    other = catalogue.parse(CATALOG.replace("default = 10", "default = 20"), "test")
    seen = [seq_of(polling, "some?most=10")]
    for before, after in [(polling.catalog, other), (other, polling.catalog)]:
        take(polling, before, after)
        seen.append(seq_of(polling, "some?most=10"))
    assert seen == sorted(set(seen))


def test_the_rates_of_a_topic_are_never_negative_when_its_query_has_another_definition() -> None:
    view = TopicView("some?most=10", 0.0)
    view.set_owner(OwnerView("p1", EPOCH), 0.0)

    def report(at: float, since: float, polls: int) -> None:
        since_us = round(since * 1e6)
        polled = report_pb2.PolledTopic(topic=view.name, epoch=EPOCH, owned_since=since_us, polls=polls, changes=polls)
        view.add_poll_report("p1", polled, at, round(at * 1e6))

    report(10.0, 1.0, 900)
    report(30.0, 11.0, 19)
    assert view.polls_per_second >= 0
    assert view.changes_per_second >= 0
    assert RATE_SECONDS < 30.0 - 11.0
