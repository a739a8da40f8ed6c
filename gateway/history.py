"""The gateway's memory of one topic: the present result and the log of steps that led to it. Pure: no I/O, no clock.

A history starts empty, takes the snapshots and deltas that owners send, each with its version, and returns the step
that each of them makes for the clients. It outlives owners: the first result of a new owner is compared with the
present one, so that clients get a delta or nothing, never a snapshot that they did not need. It ends with the gateway,
or some time after the last client left.

Every entry of the log leads from `base` to `version`, without a gap between entries. An entry without a delta records
that both versions are the same result (a new owner, nothing changed). The log holds the last `LOG_VERSIONS` entries
within `LOG_BYTES`, at least what docs/reference/channels.md#resuming promises.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import orjson

from pollcast.gateway.retained import ROW_BYTES
from pollcast.gateway.version import Version
from pollcast.services.clock import rfc3339
from pollcast.services.delta import Delta, Row, apply, diff

LOG_VERSIONS = 128
"""Maximum number of entries in a log."""

LOG_BYTES = 1024 * 1024
"""Maximum size of a log, in bytes of JSON."""


class Entry(NamedTuple):
    """One step of the log. `size` estimates its bytes as JSON."""

    base: Version
    version: Version
    polled_at: int  # microseconds since the Unix epoch
    delta: Delta | None
    size: int

    def payload(self, base: Version) -> bytes:
        """Return the JSON of event `delta` for a client at `base`, a version of the same result as `self.base`."""
        assert self.delta is not None
        upserts = b",".join([b'{"at":%d,"row":%b}' % (at, row) for at, _, row in self.delta.upserts])
        return b'{"version":"%b","base":"%b","polled_at":"%b","deletes":[%b],"upserts":[%b]}' % (
            b"%d-%d" % self.version,
            b"%d-%d" % base,
            rfc3339(self.polled_at).encode(),
            b",".join(self.delta.deletes),
            upserts,
        )


class Result:
    """One immutable result of a topic. `key` holds the names of the query's key columns and may be empty."""

    __slots__ = ("_payload", "key", "polled_at", "rows", "version")

    def __init__(self, version: Version, polled_at: int, key: Sequence[str], rows: Sequence[Row]) -> None:
        self.version = version
        self.polled_at = polled_at  # microseconds since the Unix epoch
        self.key = key
        self.rows = rows
        self._payload: bytes | None = None

    @property
    def payload(self) -> bytes:
        """The JSON of event `snapshot`; encoded on first use."""
        if self._payload is None:
            self._payload = b'{"version":"%b","polled_at":"%b","key":%b,"rows":[%b]}' % (
                str(self.version).encode(),
                rfc3339(self.polled_at).encode(),
                orjson.dumps(self.key),
                b",".join([row for _, row in self.rows]),
            )
        return self._payload

    @property
    def size(self) -> int:
        """The approximate memory of the result in bytes."""
        rows = sum(len(key) + len(row) for key, row in self.rows) + len(self.rows) * ROW_BYTES
        return rows + (len(self._payload) if self._payload is not None else 0)


class History:
    """The present result of one topic, and its log. Without `key` each change reaches clients as a snapshot.

    `present` is None before the first result.
    """

    __slots__ = ("_bytes", "_log", "key", "present")

    def __init__(self, key: Sequence[str]) -> None:
        self.key = tuple(key)
        self.present: Result | None = None
        self._log: deque[Entry] = deque()
        self._bytes = 0

    @property
    def size(self) -> int:
        """The approximate memory of the present result and the log in bytes; takes time for each row."""
        return self._bytes + (self.present.size if self.present is not None else 0)

    def take_snapshot(self, version: Version, polled_at: int, rows: Sequence[Row]) -> Entry | None:
        """Take an owner's whole result; return the step that it makes, None for a first or outdated result.

        `rows` is kept, not copied. A step of a history without a key has an empty delta when the result differs.
        """
        if self.present is None:
            self.present = Result(version, polled_at, self.key, rows)
            return None
        if version <= self.present.version:
            return None
        if self.key:
            delta = diff(self.present.rows, rows)
        else:
            delta = None if [row for _, row in rows] == [row for _, row in self.present.rows] else Delta([], [])
        return self._step(self.present, Result(version, polled_at, self.key, rows), delta)

    def take_delta(self, version: Version, polled_at: int, delta: Delta) -> Entry | None:
        """Apply an owner's delta from its seq - 1; return the step that it makes, None for an outdated delta.

        Raises LookupError when it does not follow on the present result: attach to the owner again.
        """
        if self.present is not None and version <= self.present.version:
            return None
        if self.present is None or self.present.version != (version.epoch, version.seq - 1):
            raise LookupError(f"{version} does not follow {self.present and self.present.version}")
        result = Result(version, polled_at, self.key, apply(self.present.rows, delta))
        return self._step(self.present, result, delta)

    def since(self, version: Version) -> list[Entry] | None:
        """Return the steps from `version` to the present result: empty when they are the same result.

        None when the log does not reach back to `version`.
        """
        if self.present is not None and version == self.present.version:
            return []
        for i, entry in enumerate(self._log):
            if entry.base == version:
                return [e for e in list(self._log)[i:] if e.delta is not None]
        return None

    def _step(self, old: Result, new: Result, delta: Delta | None) -> Entry:
        size = 0 if delta is None else sum(map(len, delta.deletes)) + sum(len(row) + 16 for _, _, row in delta.upserts)
        entry = Entry(old.version, new.version, new.polled_at, delta, size + 128)
        self.present = new
        if delta is not None and not self.key:  # without a key there is no delta that would lead across the change
            self._log.clear()
            self._bytes = 0
            return entry
        self._log.append(entry)
        self._bytes += entry.size
        while len(self._log) > LOG_VERSIONS or self._bytes > LOG_BYTES:
            self._bytes -= self._log.popleft().size
        return entry
