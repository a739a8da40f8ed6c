"""A JWK set file (RFC 7517) and the keys in it, re-read as it changes.

`parse` is pure; a `KeySet` looks at its file when a token is verified, at most once per second.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt

from pollcast.services.errors import Unauthorized
from pollcast.services.process.logs import get_logger

LOOK_SECONDS: Final = 1.0

_ALGORITHMS: Final = {("RSA", None): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}

log = get_logger("auth")


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """A key and the one algorithm that it is for."""

    kid: str | None
    algorithm: str
    key: Any  # as PyJWT wants it


def parse(text: str, *, warn: bool = True) -> tuple[VerifyKey, ...]:
    """The keys of a JWK set that RS256, ES256 or EdDSA tokens are verified with; any other is passed over (§5 there),
    with a warning in the log where it is broken. ValueError when the text is no JWK set, or holds no such key."""
    try:
        document = json.loads(text)
    except RecursionError:
        raise ValueError("is not a JWK set: it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError('is not a JWK set: it must be an object with a list of "keys"')
    keys = tuple(key for entry in entries if (key := _key(entry, warn)) is not None)
    if not keys:
        raise ValueError("holds no key for RS256 (RSA), ES256 (P-256) or EdDSA (Ed25519) signatures")
    return keys


def _key(entry: object, warn: bool) -> VerifyKey | None:
    """None for a key that is for something else, or broken."""
    if not isinstance(entry, dict):
        return None
    kty, kid = entry.get("kty"), entry.get("kid")
    algorithm = _ALGORITHMS.get((str(kty), None if kty == "RSA" else str(entry.get("crv"))))
    if algorithm is None or entry.get("use", "sig") != "sig" or entry.get("alg", algorithm) != algorithm:
        return None
    try:
        key = jwt.PyJWK.from_dict(entry, algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        if warn:
            log.warning("a key of the key set can't be read", kid=kid, kty=kty)
        return None
    # A private key verifies nothing; its public half does.
    public = key.public_key() if hasattr(key, "public_key") else key
    return VerifyKey(kid if isinstance(kid, str) else None, algorithm, public)


class KeySet:
    """The keys of a file."""

    def __init__(self, path: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Reads the file. OSError when it can't be read, ValueError when it is no key set."""
        self._path, self._monotonic = path, monotonic
        self._seen = self._stamp()
        self._keys = parse(path.read_text(encoding="utf-8"))
        self._looked_at = monotonic()

    def find(self, algorithm: str, kid: str | None) -> Sequence[VerifyKey]:
        """The keys for the algorithm that may be meant: those of that id or without one; without an id all of them.
        Raises Unauthorized when there is none."""
        self._look(missing=kid is not None and all(key.kid != kid for key in self._keys))
        keys = [key for key in self._keys if key.algorithm == algorithm]
        fitting = [key for key in keys if kid is None or key.kid in (None, kid)]
        if fitting:
            return fitting
        raise Unauthorized("the token is signed by a key, or with an algorithm, that is not in the key set")

    def _look(self, *, missing: bool) -> None:
        """Reads the file again when it changed, or when a key is `missing`, unless it was looked at just now."""
        now = self._monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        try:
            stamp = self._stamp()
            if stamp == self._seen and not missing:
                return
            self._keys = parse(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            log.error("the key set can't be used; the keys stay as they were", file=str(self._path), detail=str(error))
            return
        if stamp != self._seen:
            log.info("key set read again", file=str(self._path), keys=len(self._keys))
        self._seen = stamp

    def _stamp(self) -> tuple[int, int, int]:
        stat = self._path.stat()
        return stat.st_mtime_ns, stat.st_size, stat.st_ino
