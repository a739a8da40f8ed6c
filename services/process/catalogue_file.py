"""The catalogue's file, read again while a service runs (docs/reference/catalogue.md#reloading).

The file is read at start, on SIGHUP, and every LOOK_SECONDS unless POLLCAST_CATALOG_RELOAD is off. Its content counts,
not its time or inode: a symbolic link that is swapped (as Kubernetes does with a ConfigMap), a file that is replaced by
renaming, and one that is absent for a moment are all alike. A content is taken only when two looks in a row show it, so
that a file which is just being written is not taken for a shorter catalogue; SIGHUP takes it at once. A wrong content
is refused whole and reported once, and the catalogue in force stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, NoReturn

from prometheus_client import Counter, Gauge

from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.catalogue.definitions import Difference
from pollcast.services.catalogue.in_force import CatalogueInForce
from pollcast.services.errors import CatalogInvalid, Problem
from pollcast.services.process import logs

log = logs.get_logger("catalogue")

LOOK_SECONDS: Final = 1.0
"""Time between two looks at the file, in seconds."""

ABSENT_LOOKS: Final = 5
"""Number of looks in a row without a readable file after which it is reported."""

INFO = Gauge("pollcast_catalogue_info", "Always 1: the hash of the catalogue in force.", ["hash"])
RELOADS = Counter(
    "pollcast_catalogue_reloads",
    "Times that the catalogue was read again, by outcome: taken, unchanged or refused.",
    ["outcome"],
)
CURRENT = Gauge(
    "pollcast_catalogue_current", "1 while the file's catalogue is in force, 0 while the file has one that was refused."
)

CURRENT.set(1)  # no catalogue is refused where there is none, as at some coordinators
for _outcome in ("taken", "unchanged", "refused"):
    RELOADS.labels(_outcome)

Check = Callable[[Catalog, str], None]
"""Raises CatalogInvalid for a catalogue, read from this file, that the service cannot put in force."""

Apply = Callable[[Difference], Awaitable[None]]
"""Adapts a service to the catalogue that has just come into force."""

Digest = bytes


class Looks:
    """The looks at a file, and the decision whether the content that they show is to be tried. Pure."""

    def __init__(self, tried: Digest | None) -> None:
        """`tried` is the digest of the content that was read at start."""
        self._tried = tried
        self._seen: Digest | None = None
        self._absent = 0

    def look(self, digest: Digest | None, *, forced: bool = False) -> bool:
        """Record a look that showed this content, None for no readable file. Return whether it is to be tried now."""
        if digest is None:
            self._absent += 1
            self._seen = None
            if forced or self._absent == ABSENT_LOOKS:
                self._tried = None
                return True
            return False
        self._absent = 0
        if not forced and (digest == self._tried or digest != self._seen):
            self._seen = digest
            return False
        self._tried = self._seen = digest
        return True


class CatalogueFile:
    """The file of one service's catalogue. `hangup` is set by SIGHUP; `watched` is whether changes are looked for."""

    def __init__(
        self,
        path: Path,
        hangup: asyncio.Event | None = None,
        *,
        watched: bool = True,
        check: Check = lambda catalog, file: None,
    ) -> None:
        self._path = path
        self._check = check
        self._hangup = hangup or asyncio.Event()
        self._watched = watched
        self._looks = Looks(None)

    def load(self) -> CatalogueInForce:
        """Read the file at start. Raises CatalogInvalid with all its faults."""
        content = catalogue.content(self._path)
        in_force = self._read(content)
        logs.hide_claims_of(in_force.catalog)
        self._looks = Looks(_digest(content))
        _show(in_force)
        return in_force

    async def follow(self, in_force: CatalogueInForce, apply: Apply) -> NoReturn:
        """Put other catalogues in force as they come, one after the other, and adapt the service to each."""
        while True:
            forced = await self._next_look()
            try:
                found = await self._changed(forced)
            except CatalogInvalid as error:
                RELOADS.labels("refused").inc()
                CURRENT.set(0)
                for problem in error.problems:
                    log.error(
                        "catalogue refused, the one in force stays",
                        file=problem.file,
                        query=problem.query or None,
                        field=problem.field or None,
                        reason=problem.reason,
                        hash=in_force.hash,
                    )
                continue
            if found is not None:
                await self._take(in_force, found, apply)

    async def _take(self, in_force: CatalogueInForce, by: CatalogueInForce, apply: Apply) -> None:
        before = in_force.hash
        found = in_force.replace(by)
        logs.hide_claims_of(by.catalog)
        _show(in_force)
        if before == in_force.hash:
            RELOADS.labels("unchanged").inc()
            log.info("catalogue read again, nothing has changed", hash=before)
            return
        RELOADS.labels("taken").inc()
        log.info(
            "catalogue taken over",
            hash=in_force.hash,
            before=before,
            added=sorted(found.added),
            gone=sorted(found.gone),
            changed=sorted(found.changed),
            roles=sorted(found.guarded),
        )
        await apply(found)

    async def _changed(self, forced: bool) -> CatalogueInForce | None:
        """Return the file's catalogue if it is to be taken. Raises CatalogInvalid when it is to be refused."""
        try:
            content = await asyncio.to_thread(_content_now, self._path)
        except CatalogInvalid:
            if self._looks.look(None, forced=forced):
                raise
            return None
        if not self._looks.look(_digest(content), forced=forced):
            return None
        return await asyncio.to_thread(self._read, content)

    def _read(self, content: bytes) -> CatalogueInForce:
        """Return the catalogue of this content. Raises CatalogInvalid when it is wrong, or cannot be put in force."""
        catalog = catalogue.read(content, str(self._path))
        self._check(catalog, str(self._path))
        return CatalogueInForce(catalog)

    async def _next_look(self) -> bool:
        """Wait for the next look, and return whether SIGHUP asks for it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS if self._watched else None):
                await self._hangup.wait()
        forced = self._hangup.is_set()
        self._hangup.clear()
        return forced


def _show(in_force: CatalogueInForce) -> None:
    INFO.clear()
    INFO.labels(in_force.hash).set(1)
    CURRENT.set(1)


def _content_now(path: Path) -> bytes:
    """Return the file's content without waiting for a writer. Raises CatalogInvalid when it cannot be read.

    A pipe would be waited for without end, and nothing that replaces it would ever be seen.
    """
    with contextlib.suppress(OSError):  # reading it says the same
        if path.is_fifo():
            raise CatalogInvalid([Problem(str(path), "", "", "can't be read again: it is a pipe, not a file")])
    return catalogue.content(path)


def _digest(content: bytes) -> Digest:
    return hashlib.sha256(content).digest()
