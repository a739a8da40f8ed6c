"""The kind `postgresql-plain` as a subject of the conformance suite: PostgreSQL, asked by simple queries only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pollcast.poller.plain.kind import PLAIN
from tests.conformance import postgresql
from tests.conformance.subject import Sample, Subject

OTHERWISE = {"row(1, 'x')": '"(1,x)"'}
"""Samples of which PostgreSQL itself makes other JSON: types that are unknown to the poller are texts."""


@contextlib.contextmanager
def start(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """Provide a database on the PostgreSQL that all tests share."""
    with postgresql.start(request) as subject:
        samples = [Sample(each.sql, OTHERWISE.get(each.sql, each.json)) for each in subject.samples]
        yield replace(subject, kind=PLAIN, samples=samples)
