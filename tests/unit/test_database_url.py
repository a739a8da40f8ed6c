"""The words for a database that is not reached never hold a part of its password."""

from __future__ import annotations

import psycopg
import pytest

from pollcast.services.cli.doctor.look_at_database import look_at_database
from pollcast.services.process.database_url import server_words

MISTAKES = [
    "bob:s3cretPW@db.example.com/shop",
    "bob:s3cretPW@db.example.com",
    "password s3cretPW host=127.0.0.1",
    "host=127.0.0.1 password=some s3cretPW",
    "host=127.0.0.1 password=some s3cretPW=more",
    "postgresql://bob:s3cretPW@[::1/shop",
    "postgresql://bob:s3cret%ZZs3cretPW@127.0.0.1/shop",
    "postgresql://bob:some s3cretPW@127.0.0.1:1/shop",
    "mysql://bob:s3cretPW@db.example.com/shop",
]


@pytest.mark.parametrize("url", MISTAKES)
async def test_a_url_that_is_none_is_reported_without_a_part_of_it(url: str) -> None:
    seen = await look_at_database(url)
    assert seen.problem is not None
    assert "s3cret" not in seen.problem
    assert "is not a PostgreSQL connection string" in seen.problem


@pytest.mark.parametrize("url", ["postgresql://bob:s3cretPW@127.0.0.1:1/shop", "host=h password=s3cretPW"])
def test_the_words_of_a_server_are_reported_without_the_password(url: str) -> None:
    error = psycopg.OperationalError('connection failed: FATAL: "s3cretPW" is\n no good')
    assert server_words(error, url) == 'FATAL: "…" is no good'
