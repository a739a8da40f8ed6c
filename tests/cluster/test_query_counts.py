"""The counts of a query's polls, on a real PostgreSQL: what came from the database, and what was saved."""

from __future__ import annotations

import time
from pathlib import Path

from prometheus_client import REGISTRY

from pollcast.poller.counts import QueryCounts
from pollcast.poller.digest_choice import DigestChoice
from pollcast.poller.digest_polls import DigestPolls
from pollcast.poller.owned import OwnedTopic
from pollcast.poller.postgresql.kind import POSTGRESQL, only_source
from pollcast.poller.query_poller import QueryPoller
from pollcast.poller.report import PollerReport
from pollcast.poller.sources.database import Database
from pollcast.poller.sources.poll_error import PollError
from pollcast.poller.statement_runner import StatementRunner
from pollcast.services.catalogue.topics import Topic
from pollcast.v1 import report_pb2
from tests.support.poller_database import query, setup
from tests.support.polling_setting import Setting, polling_on
from tests.support.waiting import eventually

pytest_plugins = ("tests.support.poller_database_fixture",)

CATALOG = """
[queries.shelves]
sql = "select id, repeat('x', 50) as text from t where id = %(id)s"
key = ["id"]
interval = "50ms"
timeout = "10s"
probe = "select max(v) from t"
together = true
refresh = "1h"
params = { id = "int" }

[queries.rare]
sql = "select 1 as one"
interval = "1h"
"""

LISTS = query(
    "select n, n * v as product from t, generate_series(1, 20) n where id = %(id)s order by n",
    name="lists",
    params='id = "int"',
    refresh="1h",
)

TABLE = ("create table t (id int primary key, v int)", "insert into t select n, n from generate_series(1, 3) n")


def own(topics: list[str], setting: Setting) -> QueryCounts:
    """Give the poller these topics of one query, and return the counts of the query."""
    for epoch, topic in enumerate(topics, 1):
        setting.polling.gained(topic, epoch)
    return setting.polling.query_pollers[topics[0].partition("?")[0]].counts


async def test_polls_that_a_probe_spares_cost_no_statement_but_the_probe(database: str, tmp_path: Path) -> None:
    setup(database, *TABLE)
    async with polling_on(database, tmp_path, CATALOG) as setting:
        counts = own([f"shelves?id={n}" for n in (1, 2, 3)], setting)
        quiet: list[report_pb2.QueryCounts] = []  # before and after three rounds in which nothing was polled

        async def settled() -> bool:
            before = counts.report()
            await eventually(lambda: counts.skipped.value >= before.skipped + 9)
            quiet[:] = before, counts.report()
            return quiet[0].polls == quiet[1].polls

        await eventually(settled)
        before, after = quiet
        assert after.avoided - before.avoided == (after.skipped - before.skipped) / 3  # all three are one statement
        probes = after.statements - before.statements
        assert abs(probes - (after.avoided - before.avoided)) <= 1  # one may be under way before, or after
        assert after.bytes - before.bytes <= probes * len('{"max":3}')
        setup(database, "update t set v = v + 1 where id = 3")
        await eventually(lambda: counts.report().polls >= after.polls + 3)


class ByDigest:
    """Three topics of a query that are polled by digest, and the counts of the query."""

    def __init__(self, db: Database) -> None:
        statements = StatementRunner(LISTS, only_source(db)["default"])
        self.counts = statements.counts
        self.topics = [OwnedTopic(Topic(f"lists?id={n}", LISTS, {"id": str(n)}), 1, 0) for n in (1, 2, 3)]
        self._choice = DigestChoice()
        self._polls = DigestPolls(LISTS, POSTGRESQL.dialect, statements, self._choice, time.monotonic)

    async def poll(self) -> tuple[int, int, int]:
        """Poll all topics, and return how many rows and bytes were received, and how many topics' rows were not sent.

        The bytes are those of rows alone.
        """
        before = self.counts.rows.value, self.counts.received_bytes.value, self.counts.unsent.value
        self._choice.digests = True
        answer = await self._polls.poll(self.topics, regular=True)
        assert not isinstance(answer, PollError), answer.cause
        for at, (topic, rows) in enumerate(zip(self.topics, answer.outcomes, strict=True)):
            assert not isinstance(rows, PollError)
            digest = (answer.columns, answer.digests[at]) if at in answer.digests else None
            self._polls.record_result(topic, rows, digest)
            topic.record_result(rows, 1)
        after = self.counts.rows.value, self.counts.received_bytes.value, self.counts.unsent.value
        received, size, unsent = (now - then for now, then in zip(after, before, strict=True))
        return received, size - sum(len(str(digest)) for digest in answer.digests.values()), unsent


async def test_rows_that_a_digest_spares_cost_no_bytes(database: str, db: Database) -> None:
    setup(database, *TABLE)
    polled = ByDigest(db)

    def size(*values: int) -> int:
        return sum(len(f'{{"n":{n},"product":{n * value}}}') for n in range(1, 21) for value in values)

    assert await polled.poll() == (60, size(1, 2, 3), 0)
    assert await polled.poll() == (0, 0, 3)
    setup(database, "update t set v = 7000 where id = 2")
    assert await polled.poll() == (20, size(7000), 2)
    setup(database, "delete from t where id = 1")
    assert await polled.poll() == (0, 0, 2)


async def test_a_report_has_what_the_metrics_have_and_no_query_that_was_not_polled(
    database: str, tmp_path: Path
) -> None:
    setup(database, *TABLE)
    async with polling_on(database, tmp_path, CATALOG) as setting:
        report = PollerReport("p1", setting.polling, {})
        names = "polls", "unsent", "received_bytes", "statements", "skipped", "avoided_statements"

        def exported() -> list[float]:
            samples = [each for metric in REGISTRY.collect() for each in metric.samples]
            return [
                sum(
                    each.value
                    for each in samples
                    if each.name == f"pollcast_poller_{name}_total" and each.labels["query"] == "shelves"
                )
                for name in names
            ]

        assert list(report.begin().counts) == []
        before = exported()
        counts = own(["shelves?id=1"], setting)
        await eventually(lambda: counts.skipped.value > 3)
        setting.polling.lost("shelves?id=1")
        (reported,) = report.begin().counts
        assert reported.query == "shelves"
        found = [reported.polls, reported.unsent, reported.bytes, reported.statements, reported.skipped]
        assert [after - then for after, then in zip(exported(), before, strict=True)] == [*found, reported.avoided]


async def test_polls_that_hints_ask_for_are_reported(database: str, tmp_path: Path) -> None:
    setup(database, *TABLE)
    async with polling_on(database, tmp_path, CATALOG) as setting:
        poller = setting.polling.query_pollers["rare"]
        assert poller.report() is None
        counts = own(["rare"], setting)
        await eventually(lambda: counts.polls["changed"].value == 1)
        for expected in (1, 2):
            assert setting.polling.hint_topic("rare") == 1
            await eventually(lambda expected=expected: counts.polls["unchanged"].value == expected)  # type: ignore[misc]
            assert hinted(poller) == expected


def hinted(poller: QueryPoller) -> int:
    """Return the number of polls that hints asked for, as it is reported."""
    report = poller.report()
    assert report is not None
    return report.hinted
