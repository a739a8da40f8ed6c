"""Conformance: `pollcast check` tries each query on its own source."""

from __future__ import annotations

import pytest

from pollcast.poller import checking
from pollcast.poller.row_typing import row_types
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.catalogue.sources import SourceEntry
from pollcast.services.cli.doctor.look_at_sources import look_at_source
from pollcast.services.cli.doctor.source_rules import about_source
from pollcast.services.errors import CatalogInvalid, PollStale
from tests.conformance.rules import CATALOGUE, needs
from tests.conformance.subject import Subject


def parse(subject: Subject, *queries: str) -> Catalog:
    """Return a catalogue of queries on the subject, named q1, q2, …, each with these fields."""
    source = f"[sources.subject]\nurl_env = 'SUBJECT_URL'\nkind = '{subject.kind.dialect.kind}'\n"
    tables = [f"[queries.q{n}]\nsource = 'subject'\n{fields}\n" for n, fields in enumerate(queries, 1)]
    return catalogue.parse(source + "".join(tables), "c.toml")


@needs(CATALOGUE)
def test_queries_that_work_are_accepted_and_those_that_do_not_are_named(subject: Subject) -> None:
    environment = {"SUBJECT_URL": subject.url}
    good = "sql = 'select n from numbers where n < %(m)s order by n'\nkey = ['n']\nparams = { m = 'int' }"
    probed = "sql = 'select n from numbers where n < 3'\nprobe = 'select n from numbers where n = 1'"
    report = checking.report(parse(subject, good, probed), "c.toml", "unused", environment)
    assert report.notes == {"q1": [], "q2": []}
    assert (report.one_by_one["q1"] is None) == subject.kind.dialect.can.together
    bad = (
        "sql = 'select n from nowhere'",
        "sql = 'select n %% 5 as k from numbers where n < 9'\nkey = ['k']",
        "sql = 'select n from numbers'\nkey = ['other']",
        "sql = 'select n from numbers'\nprobe = 'select nothing from numbers'",
    )
    with pytest.raises(CatalogInvalid) as raised:
        checking.report(parse(subject, good, *bad), "c.toml", "unused", environment)
    found = [(problem.query, problem.field) for problem in raised.value.problems]
    assert found == [("q2", "sql"), ("q3", "key"), ("q4", "key"), ("q5", "probe")]
    assert "nowhere" in raised.value.problems[0].reason


@needs(CATALOGUE)
def test_a_source_without_a_url_is_noted_and_one_that_is_not_there_is_named(subject: Subject) -> None:
    catalog = parse(subject, "sql = 'select n from numbers'")
    (note,) = checking.report(catalog, "c.toml", "unused").notes["q1"]
    assert note.startswith("it was not tried: url_env of its source subject names the environment variable SUBJECT_URL")
    if subject.through is not None:
        with pytest.raises(PollStale, match="the source subject: the database can't be reached"):
            checking.report(catalog, "c.toml", "unused", {"SUBJECT_URL": subject.through("127.0.0.1:1")})


@needs(CATALOGUE)
def test_the_columns_of_rows_are_described_in_their_order(subject: Subject) -> None:
    fields = "sql = 'select n as a, n + 1 as b from numbers where n < %(m)s'\nparams = { m = 'int' }"
    catalog = parse(subject, fields, "sql = 'select n from numbers where n < 0'")
    rows = row_types(catalog, "c.toml", "unused", {"SUBJECT_URL": subject.url})
    assert [[column.name for column in rows[name].columns] for name in ("q1", "q2")] == [["a", "b"], ["n"]]
    assert {column.type for column in rows["q1"].columns} <= {"int", "bigint", "json"}
    with pytest.raises(CatalogInvalid) as raised:
        row_types(parse(subject, "sql = 'select n from nowhere'"), "c.toml", "unused", {"SUBJECT_URL": subject.url})
    assert "nowhere" in raised.value.problems[0].reason


@needs(CATALOGUE)
async def test_the_doctor_connects_to_a_source_and_says_what_it_is_and_what_is_wrong(subject: Subject) -> None:
    entry = SourceEntry("subject", "SUBJECT_URL", subject.kind.dialect.kind)
    seen = await look_at_source(entry, None, {"SUBJECT_URL": subject.url})
    assert (seen.problem, seen.no_url) == (None, None)
    assert seen.seconds if seen.database is None else seen.database.trip_seconds
    *rights, sound = about_source(seen, 2)
    assert (sound.level, sound.about) == ("ok", "source subject")
    assert "version " in sound.found
    if "user " in sound.found:  # the suite's user may insert into one table, which a poller's should not
        assert [(finding.level, "may write" in finding.found) for finding in rights] == [("warning", True)]
        assert "the user conformant" in rights[0].found
    else:
        assert "memory limit" in sound.found
        assert not rights
    assert (await look_at_source(entry, None, {})).no_url is not None
    assert (await look_at_source(entry, None, {"SUBJECT_URL": "nonsense://me:secret@/x y"})).problem is not None
    if subject.through is not None:
        seen = await look_at_source(entry, None, {"SUBJECT_URL": subject.through("127.0.0.1:1")})
        assert seen.problem
