"""The variables of libpq: a process removes all that libpq knows, but for the places of files."""

from __future__ import annotations

from psycopg.pq import Conninfo

from pollcast.services.process.surroundings import KEPT, LIBPQ, clear


def test_every_variable_that_this_libpq_reads_is_removed_or_kept_on_purpose() -> None:
    read = {option.envvar.decode() for option in Conninfo.get_defaults() if option.envvar is not None}
    assert read <= LIBPQ | KEPT
    assert not LIBPQ & KEPT


def test_a_cleared_environment_keeps_what_is_not_of_libpq() -> None:
    kept = {"PGPASSFILE": "f", "PG_SHOP_URL": "u", "PGBOUNCER": "b", "PATH": "/bin"}
    environment = kept | dict.fromkeys(("PGTZ", "PGOPTIONS", "PGCONNECT_TIMEOUT"), "x")
    assert clear(environment) == ["PGCONNECT_TIMEOUT", "PGOPTIONS", "PGTZ"]
    assert environment == kept
    assert clear(environment) == []
