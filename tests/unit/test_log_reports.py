"""The reports of `pollcast up` from the logs of its services."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pollcast.services.local.log_reports import LogReader, Reports

TAKEN = {"event": "catalogue taken over", "hash": "b", "before": "a", "added": ["x"], "changed": ["y", "z"], "gone": []}
REFUSED = {
    "event": "catalogue refused, the one in force stays",
    "file": "shop.toml",
    "query": "orders",
    "field": "interval",
    "reason": "'5ms' is too short: at least 50ms",
}
FAILED = {
    "event": "poll error",
    "state": "failed",
    "query": "orders",
    "reason": "the query failed: undefined_column (42703)",
    "message": "column o.att does not exist",
}


def test_what_several_services_log_about_a_catalogue_is_reported_once() -> None:
    reports = Reports()
    assert reports.of(TAKEN) == "The catalogue is taken over: added x; changed y, z."
    refused = "The catalogue is refused, and the one in force stays: shop.toml: query orders: interval: "
    assert reports.of(REFUSED) == refused + "'5ms' is too short: at least 50ms"
    assert reports.of(FAILED) == "The query orders fails: column o.att does not exist"
    assert [reports.of(entry) for entry in (TAKEN, REFUSED, FAILED)] == [None] * 3
    other_roles = {**TAKEN, "hash": "c", "added": [], "changed": [], "roles": ["y"]}
    assert reports.of(other_roles) == "The catalogue is taken over: roles y."
    assert reports.of({**TAKEN, "hash": "d", "added": [], "changed": []}) is not None
    assert reports.of(FAILED) is not None  # by another catalogue
    outside = {**REFUSED, "query": None, "field": None, "reason": "it can't be read"}
    assert reports.of(outside) == "The catalogue is refused, and the one in force stays: shop.toml: it can't be read"


def test_a_mistake_that_was_undone_and_is_made_again_is_reported_again() -> None:
    reports = Reports()
    assert reports.of(REFUSED) is not None
    assert reports.of(FAILED) is not None
    assert reports.of({"event": "catalogue read again, nothing has changed", "hash": "a"}) is None
    assert reports.of(REFUSED) is not None
    assert reports.of(REFUSED) is None
    assert reports.of(FAILED) is None


def test_an_error_that_passes_is_not_reported() -> None:
    assert Reports().of({**FAILED, "state": "stale"}) is None
    assert Reports().of({"event": "polls recovered", "query": "orders"}) is None


def test_logs_are_read_from_their_ends_on_by_whole_lines(tmp_path: Path) -> None:
    def line(entry: dict[str, Any]) -> str:
        return json.dumps(entry) + "\n"

    log, absent = tmp_path / "poller-1.log", tmp_path / "gateway-1.log"
    log.write_text(line(TAKEN))
    reader = LogReader([log, absent])
    assert not list(reader.entries())
    half = line(FAILED)
    with log.open("a") as file:
        file.write("poll error, in a line that is no JSON\n" + line(REFUSED) + line({"event": "other"}) + half[:30])
    assert list(reader.entries()) == [REFUSED]
    with log.open("a") as file:
        file.write(half[30:])
    absent.write_text(line(TAKEN))
    assert list(reader.entries()) == [FAILED, TAKEN]
    assert not list(reader.entries())
