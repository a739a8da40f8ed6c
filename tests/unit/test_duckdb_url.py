"""URLs of DuckDB databases, and what is said where DuckDB is missing."""

from __future__ import annotations

import sys

import pytest

from pollcast.poller.duckdb.url import Location, read_url
from pollcast.poller.source_kinds import KindMissing, source_kind


def test_a_url_names_a_file_and_its_bounds() -> None:
    assert read_url("duckdb:///data/shop.duckdb") == Location("/data/shop.duckdb", 1, "1GB", "", ())
    url = "duckdb:///data/a%20b.db?threads=2&memory_limit=512MB&temp_directory=/tmp/x/&files=/lake&files=/more/"
    assert read_url(url) == Location("/data/a b.db", 2, "512MB", "/tmp/x", ("/lake", "/more"))
    assert read_url("duckdb:///?files=/lake") == Location("", 1, "1GB", "", ("/lake",))


def test_a_database_is_named_as_its_file_unless_duckdb_has_that_name() -> None:
    names = {"/data/shop.duckdb": "shop", "/a/b.c.db": "b", "/x/main.db": "main_database", "/x/.db": "_database"}
    assert {path: read_url(f"duckdb://{path}").name for path in names} == names


@pytest.mark.parametrize(
    "url",
    [
        "duckdb:///secret%00.duckdb",
        "duckdb:///?files=/secret%00",
        *("", "nonsense", "postgresql://me:secret@host/x", "duckdb:/shop.db?x=1", "duckdb://secret/shop.db"),
        *("duckdb:///", "duckdb:///a.db#secret", "duckdb:///a.db?threads=0", "duckdb:///a.db?threads=secret"),
        *("duckdb:///a.db?threads=1&threads=2", "duckdb:///a.db?memory_limit=80%25", "duckdb:///a.db?secret=1"),
        *("duckdb:///a.db?files=secret", "duckdb:///a.db?temp_directory=secret", "duckdb:///a.db?secret"),
        "duckdb:///a.db?memory_limit='; drop table secret",
    ],
)
def test_another_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match="is not a DuckDB URL") as refused:
        read_url(url)
    assert "secret" not in str(refused.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("pollcast.poller.duckdb.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(
        KindMissing, match=r"databases of the kind duckdb need the package duckdb: pip install 'pollcast\[duckdb\]'"
    ):
        source_kind.__wrapped__("duckdb")
