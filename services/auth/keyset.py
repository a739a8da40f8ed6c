"""A file with a JWK set, which is read again when it changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from pollcast.services.errors import Unauthorized
from pollcast.services.process import jwks
from pollcast.services.process.jwks import VerifyKey
from pollcast.services.process.logs import get_logger

LOOK_SECONDS: Final = 1.0
"""Minimum time between two looks at the file, in seconds."""

log = get_logger("auth")


def fitting(keys: Sequence[VerifyKey], algorithm: str, kid: str | None) -> list[VerifyKey]:
    """Return those keys of this algorithm that have this id or none; all of the algorithm when `kid` is None."""
    return [key for key in keys if key.algorithm == algorithm and (kid is None or key.kid in (None, kid))]


class KeySet:
    """The keys of one JWK set file, checked for changes when a token is verified, at most once per LOOK_SECONDS."""

    def __init__(self, path: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Read the file. Raises OSError when it cannot be read, ValueError when it is not a usable key set."""
        self._path, self._monotonic = path, monotonic
        self._seen = self._stamp()
        self._keys = self._read()
        self._looked_at = monotonic()

    def find(self, algorithm: str, kid: str | None) -> Sequence[VerifyKey]:
        """Return the keys for this algorithm with this id or without an id; all of the algorithm when `kid` is None.

        Raises Unauthorized when there is none.
        """
        self._look(missing=kid is not None and all(key.kid != kid for key in self._keys))
        keys = fitting(self._keys, algorithm, kid)
        if keys:
            return keys
        raise Unauthorized("the token is signed by a key, or with an algorithm, that is not in the key set")

    def _look(self, *, missing: bool) -> None:
        """Read the file again if it changed or a key is `missing`, unless it was checked within LOOK_SECONDS.

        A file that cannot be used is logged, and the keys stay as they were.
        """
        now = self._monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        try:
            stamp = self._stamp()
            if stamp == self._seen and not missing:
                return
            self._keys = self._read()
        except (OSError, ValueError) as error:
            log.error("the key set can't be used; the keys stay as they were", file=str(self._path), detail=str(error))
            return
        if stamp != self._seen:
            log.info("key set read again", file=str(self._path), keys=len(self._keys))
        self._seen = stamp

    def _read(self) -> tuple[VerifyKey, ...]:
        """Return the usable keys of the file; log a warning for each key that cannot be read."""

        def warn(kid: object, kty: object) -> None:
            log.warning("a key of the key set can't be read", kid=kid, kty=kty)

        return jwks.parse(self._path.read_text(encoding="utf-8"), warn)

    def _stamp(self) -> tuple[int, int, int]:
        """Return what differs between two states of the file: its time of change in ns, its size and its inode."""
        stat = self._path.stat()
        return stat.st_mtime_ns, stat.st_size, stat.st_ino
