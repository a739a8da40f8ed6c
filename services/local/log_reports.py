"""Reports of `pollcast up` from the logs of its services: catalogues that are taken or refused, and failing queries.

Whoever edits a catalogue beside a running cluster sees at the terminal what became of it. `Reports` decides what is
reported, once for all services that log it; `LogReader` reads the logs. See docs/reference/commands.md#up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from pollcast.services.errors import Problem

READ_BYTES: Final = 1 << 20
"""Maximum number of bytes of one log that are read at a time."""

_EVENTS: Final = (b"catalogue refused", b"catalogue taken over", b"catalogue read again", b"poll error")
"""Texts of which a log line has one if it may have to be reported."""

_PARTS: Final = ("added", "changed", "gone", "roles")
"""Fields that name the queries which a catalogue that is taken over affects."""


class Reports:
    """Choice of the log entries that are reported, each once. Pure."""

    def __init__(self) -> None:
        self._hash: object = None  # of the catalogue that was taken last
        self._reported: set[str] = set()  # since then
        self._refused: set[str] = set()  # those of them that are refusals

    def of(self, entry: Mapping[str, Any]) -> str | None:
        """Return the text to report for an entry of a service's log; None when there is none, or it is reported."""
        match entry.get("event"):
            case "catalogue taken over" if entry.get("hash") != self._hash:
                self._hash = entry.get("hash")
                self._reported.clear()
                self._refused.clear()
                parts = (f"{part} {', '.join(entry[part])}" for part in _PARTS if entry.get(part))
                return f"The catalogue is taken over: {'; '.join(parts) or 'no topic is affected'}."
            case "catalogue refused, the one in force stays":
                values = (entry.get(name) or "" for name in ("file", "query", "field", "reason"))
                text = f"The catalogue is refused, and the one in force stays: {Problem(*map(str, values))}"
                self._refused.add(text)
            case "catalogue read again, nothing has changed":  # a mistake that was undone may be made again
                self._reported -= self._refused
                self._refused.clear()
                return None
            case "poll error" if entry.get("state") == "failed":
                text = f"The query {entry.get('query')} fails: {entry.get('message') or entry.get('reason')}"
            case _:
                return None
        if text in self._reported:
            return None
        self._reported.add(text)
        return text


class LogReader:
    """The entries that services add to their logs, one JSON object a line."""

    def __init__(self, logs: Iterable[Path]) -> None:
        """Read from the present ends of the logs on."""
        self._read = {log: _size(log) for log in logs}

    def entries(self) -> Iterator[Mapping[str, Any]]:
        """Yield the entries since the last call that may have to be reported."""
        for log, at in self._read.items():
            if _size(log) <= at:
                continue
            with log.open("rb") as file:
                file.seek(at)
                text = file.read(READ_BYTES)
            whole = text.rfind(b"\n") + 1 or (len(text) if len(text) == READ_BYTES else 0)
            self._read[log] = at + whole
            for line in text[:whole].splitlines():
                if any(event in line for event in _EVENTS):
                    yield from _entry(line)


def _entry(line: bytes) -> Iterator[Mapping[str, Any]]:
    """Yield the entry of a line, or nothing for a line that is none, such as one of a traceback."""
    try:
        entry = orjson.loads(line)
    except ValueError:
        return
    if isinstance(entry, dict):
        yield entry


def _size(log: Path) -> int:
    try:
        return log.stat().st_size
    except OSError:
        return 0
