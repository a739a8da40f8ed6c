"""The gateway's memory of one topic: the present result and the log of steps that led to it. Pure: no I/O, no clock.

A history starts empty, takes the snapshots and deltas that owners send, each with its version, and returns the step
that each of them makes for the clients. It outlives owners: the first result of a new owner is compared with the
present one, so that clients get a delta or nothing, never a snapshot that they did not need. It ends with the gateway,
or some time after the last client left.

Every entry of the log leads from `base` to `version`, without a gap between entries. An entry without a change records
that both versions are the same result (a new owner, nothing changed). The log holds the last `LOG_VERSIONS` entries
within `LOG_BYTES`, at least what docs/reference/channels.md#resuming promises.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from operator import itemgetter, ne

import orjson

from pollcast.gateway.change import Change
from pollcast.gateway.outbound_frames import Body
from pollcast.gateway.retained import ROW_BYTES
from pollcast.gateway.version import Version
from pollcast.services.clock import rfc3339
from pollcast.services.delta import Delta, Row, Rows, apply_all, diff, joined, share

LOG_VERSIONS = 128
"""Maximum number of entries in a log."""

LOG_BYTES = 1024 * 1024
"""Maximum size of a log, in bytes of JSON."""

ENTRY_BYTES = 128
"""Bytes of an entry beside its text."""

PENDING_CHANGES = 64
"""Maximum number of deltas that wait to be applied."""

PENDING_ROWS = 16_384
"""Maximum number of steps that waiting deltas may take, as the product of their number and the result's rows."""

LARGE_BYTES = 64 * 1024
"""Size from which the JSON of a result or a change is large: compressing it may hold up the event loop, in bytes."""

LARGE_ROWS = 1000
"""Number of rows from which a result is large."""

SAMPLE_ROWS = 1000
"""Number of rows by which the memory of a result is estimated."""

_text = itemgetter(1)


class Entry:
    """One step of the log. `change` is None when both versions are the same result."""

    __slots__ = ("_body", "base", "change", "polled_at", "size", "version")

    def __init__(self, base: Version, version: Version, polled_at: int, change: Change | None) -> None:
        self.base = base
        self.version = version
        self.polled_at = polled_at  # microseconds since the Unix epoch
        self.change = change
        self.size = ENTRY_BYTES if change is None else ENTRY_BYTES + len(change.text)  # estimated bytes that it takes
        self._body: Body | None = None

    def head(self, base: Version) -> bytes:
        """Return the beginning of the JSON of event `delta` for a client at `base`, a version of the same result as
        `self.base`; `body` is the rest."""
        return b'{"version":"%d-%d","base":"%d-%d","polled_at":"%b",' % (
            *self.version,
            *base,
            rfc3339(self.polled_at).encode(),
        )

    @property
    def body(self) -> Body:
        """The JSON of event `delta` after `head`."""
        if self._body is None:
            assert self.change is not None
            text = self.change.text
            self._body = Body(None, large=len(text) > LARGE_BYTES, text=text)
        return self._body

    def payload(self, base: Version) -> bytes:
        """Return the JSON of event `delta` for a client at `base`, a version of the same result as `self.base`."""
        return self.head(base) + self.body.text


class Result:
    """One immutable result of a topic, whose rows may be made only when they are first needed.

    `key` holds the names of the query's key columns and may be empty.
    """

    __slots__ = ("_body", "_link", "_rows", "key", "many", "polled_at", "version")

    def __init__(self, version: Version, polled_at: int, key: Sequence[str], rows: Rows | None) -> None:
        self.version = version
        self.polled_at = polled_at  # microseconds since the Unix epoch
        self.key = key
        self.many = rows is not None and len(rows) > LARGE_ROWS  # whether it has many rows, or had before some deltas
        self._rows = rows
        self._link: tuple[Result, Change] | None = None  # the result before and the change, while there are no rows
        self._body: Body | None = None

    def after(self, version: Version, polled_at: int, change: Change) -> Result:
        """Return the result that follows on this one by a change."""
        result = Result(version, polled_at, self.key, None)
        result.many = self.many
        result._link = _NOTHING if change.whole else self, change
        return result

    @property
    def rows(self) -> Rows:
        """The rows with their keys, in the query's order; may be used in any thread."""
        rows = self._rows
        if rows is None:
            changes: list[Change] = []
            result = self
            while (rows := result._rows) is None:
                link = result._link
                if link is not None:  # otherwise another thread has just made the rows
                    result = link[0]
                    changes.append(link[1])
            rows = self._rows = apply_all(rows, (change.delta for change in reversed(changes)))
            self.many = len(rows) > LARGE_ROWS
            self._link = None
        return rows

    @property
    def body(self) -> Body:
        """The JSON of event `snapshot`."""
        if self._body is None:
            large = self.many or len(self.rows) > LARGE_ROWS or sum(map(len, map(_text, self.rows))) > LARGE_BYTES
            self._body = Body(self._encode, large=large)
        return self._body

    @property
    def payload(self) -> bytes:
        """The JSON of event `snapshot`; encoded on first use."""
        return self.body.text

    def _encode(self) -> bytes:
        return b'{"version":"%d-%d","polled_at":"%b","key":%b,"rows":[%b]}' % (
            *self.version,
            rfc3339(self.polled_at).encode(),
            orjson.dumps(self.key),
            joined([row for _, row in self.rows]),
        )

    @property
    def size(self) -> int:
        """The approximate memory of the result in bytes, by a sample of its rows when there are many.

        Deltas that have not been applied count with their text: applying them takes too long to do it for this.
        """
        unapplied = 0
        result = self
        while (rows := result._rows) is None:
            link = result._link
            if link is not None:  # otherwise another thread has just made the rows
                result = link[0]
                unapplied += len(link[1].text)
        sample = rows[:: len(rows) // SAMPLE_ROWS] if len(rows) > 2 * SAMPLE_ROWS else rows
        texts = sum(len(key) + len(row) for key, row in sample) * len(rows) // max(1, len(sample))
        return texts + len(rows) * ROW_BYTES + unapplied + (self._body.size if self._body is not None else 0)


_NOTHING = Result(Version(0, 0), 0, (), ())
"""A result without rows, on which a whole change can follow as on any other."""


class History:
    """The present result of one topic, and its log. Without `key` each change reaches clients as a snapshot.

    `present` is None before the first result. Deltas of owners are not applied before the rows are needed, or the
    deltas that wait for it are many: PENDING_CHANGES, or fewer of a result with many rows or of large deltas. Then they
    are `due`.
    """

    __slots__ = ("_bytes", "_known_rows", "_log", "_pending", "_pending_bytes", "key", "present")

    def __init__(self, key: Sequence[str]) -> None:
        self.key = tuple(key)
        self.present: Result | None = None
        self._log: deque[Entry] = deque()
        self._bytes = 0
        self._pending = self._pending_bytes = 0  # deltas that have not been applied, and their bytes
        self._known_rows = 0  # rows of the last result that was not made by a delta

    @property
    def size(self) -> int:
        """The approximate memory of the present result and the log in bytes."""
        return self._bytes + (self.present.size if self.present is not None else 0)

    def take_snapshot(self, version: Version, polled_at: int, rows: list[Row]) -> Entry | None:
        """Take an owner's whole result; return the step that it makes, None for a first or outdated result.

        `rows` is kept, not copied, and equal rows in it become those of the present result. A step of a history without
        a key has an empty delta when the result differs.
        """
        before = self.present
        if before is not None and version <= before.version:
            return None
        found: list[Change | None] = [None]
        if before is not None:
            self.compare(rows, found)
        return self.adopt(version, polled_at, rows, found[-1])

    def compare(self, rows: list[Row], found: list[Change | None]) -> None:
        """Append the change from the present result to these rows, None when they are equal.

        Rows that are equal become the same objects. May be called in any thread, while nothing else is taken.
        """
        assert self.present is not None
        before = self.present.rows
        share(before, rows)
        delta = diff(before, rows) if self.key else _changed(before, rows)
        found.append(None if delta is None else Change.of(delta))

    def adopt(self, version: Version, polled_at: int, rows: Rows, change: Change | None) -> Entry | None:
        """Make these rows the present result, to which the change leads; return the step, None for a first or outdated
        result."""
        before = self.present
        if before is not None and version <= before.version:
            return None
        self.present = Result(version, polled_at, self.key, rows)
        self._pending = self._pending_bytes = 0
        self._known_rows = len(rows)
        return self._step(before.version, version, polled_at, change) if before is not None else None

    def take_delta(self, version: Version, polled_at: int, change: Change) -> Entry | None:
        """Take an owner's delta from its seq - 1; return the step that it makes, None for an outdated delta.

        Raises LookupError when it does not follow on the present result: attach to the owner again.
        """
        before = self.present
        if before is not None and version <= before.version:
            return None
        if before is None or before.version != (version.epoch, version.seq - 1):
            raise LookupError(f"{version} does not follow {before and before.version}")
        self.present = before.after(version, polled_at, change)
        if change.whole:  # what waits before it is not needed
            self._pending = self._pending_bytes = 0
        self._pending += 1
        self._pending_bytes += len(change.text)
        return self._step(before.version, version, polled_at, change)

    @property
    def due(self) -> bool:
        """Whether so many deltas wait to be applied that `settle` should be called."""
        return (
            self._pending >= PENDING_CHANGES
            or self._pending * self._known_rows > PENDING_ROWS
            or self._pending_bytes > LOG_BYTES
        )

    def settle(self) -> None:
        """Apply the deltas that wait for it; may be called in any thread."""
        if self.present is not None:
            self._pending = self._pending_bytes = 0
            self._known_rows = len(self.present.rows)

    def since(self, version: Version) -> list[Entry] | None:
        """Return the steps from `version` to the present result: empty when they are the same result.

        None when the log does not reach back to `version`.
        """
        if self.present is not None and version == self.present.version:
            return []
        for i, entry in enumerate(self._log):
            if entry.base == version:
                return [e for e in list(self._log)[i:] if e.change is not None]
        return None

    def _step(self, base: Version, version: Version, polled_at: int, change: Change | None) -> Entry:
        entry = Entry(base, version, polled_at, change)
        if change is not None and not self.key:  # without a key there is no delta that would lead across the change
            self._log.clear()
            self._bytes = 0
            return entry
        self._log.append(entry)
        self._bytes += entry.size
        while len(self._log) > LOG_VERSIONS or self._bytes > LOG_BYTES:
            self._bytes -= self._log.popleft().size
        return entry


def _changed(old: Rows, new: Rows) -> Delta | None:
    """Return an empty delta when the rows of two results without a key differ, else None."""
    return None if len(old) == len(new) and not any(map(ne, map(_text, old), map(_text, new))) else Delta()
