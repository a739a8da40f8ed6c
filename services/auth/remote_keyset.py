"""A JWK set at a URL, which is fetched when the gateway starts, kept, and fetched again when it may have changed.

It is fetched again when a token names a key that the set did not have, at most once per RETRY_SECONDS, and when a token
is verified more than REFRESH_SECONDS after the last time, so that a key that was removed is forgotten. Verifying never
waits: a fetch goes on in a thread of its own, and a token whose key is not known yet is refused. While the URL does not
answer, the keys stay as they were (docs/reference/security.md#tokens).
"""

from __future__ import annotations

import http.client
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any, Final

from pollcast.services.auth.keyset import fitting
from pollcast.services.errors import Unauthorized
from pollcast.services.process import jwks
from pollcast.services.process.jwks import VerifyKey
from pollcast.services.process.logs import get_logger
from pollcast.services.process.secure_url import secure_url

RETRY_SECONDS: Final = 10.0
"""Minimum time between two fetches, in seconds."""

REFRESH_SECONDS: Final = 300.0
"""Age of the keys from which they are fetched again, in seconds."""

START_SECONDS: Final = 5.0
"""Time that the gateway waits for the first fetch when it starts, in seconds."""

FETCH_SECONDS: Final = 10.0
"""Time that one fetch has, in seconds."""

MAX_BYTES: Final = 1024 * 1024
"""Maximum size of a key set, in bytes."""

Fetch = Callable[[str], str]
"""A function that returns the text at a URL. Raises OSError or ValueError."""

log = get_logger("auth")


class RemoteKeySet:
    """The keys of the JWK set at one URL."""

    def __init__(self, url: str, fetch: Fetch | None = None, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._url, self._fetch, self._monotonic = url, fetch or fetch_text, monotonic
        self._keys: tuple[VerifyKey, ...] = ()
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._under_way: threading.Thread | None = None

    def start(self) -> None:
        """Fetch the keys for the first time, waiting for START_SECONDS at most. A failure is logged."""
        self._refresh().join(START_SECONDS)

    def find(self, algorithm: str, kid: str | None) -> Sequence[VerifyKey]:
        """Return the keys for this algorithm with this id or without an id; all of the algorithm when `kid` is None.

        Raises Unauthorized when there is none.
        """
        now = self._monotonic()
        missing = not self._keys or (kid is not None and all(key.kid != kid for key in self._keys))
        if (missing or now - self._fetched_at >= REFRESH_SECONDS) and now - self._tried_at >= RETRY_SECONDS:
            self._refresh()
        keys = fitting(self._keys, algorithm, kid)
        if keys:
            return keys
        raise Unauthorized("the token is signed by a key, or with an algorithm, that is not in the key set")

    def _refresh(self) -> threading.Thread:
        """Return the thread that fetches the keys, after starting it unless there is one."""
        if self._under_way is None or not self._under_way.is_alive():
            self._tried_at = self._monotonic()
            self._under_way = threading.Thread(target=self._fetch_keys, name="key set", daemon=True)
            self._under_way.start()
        return self._under_way

    def _fetch_keys(self) -> None:
        try:
            keys = jwks.parse(self._fetch(self._url), _warn)
        except (OSError, ValueError, http.client.HTTPException) as error:
            log.error("the key set can't be fetched; the keys stay as they were", url=self._url, detail=_words(error))
            return
        if keys != self._keys:
            log.info("key set fetched", url=self._url, keys=len(keys))
        self._keys, self._fetched_at = keys, self._monotonic()


class _SecureRedirects(urllib.request.HTTPRedirectHandler):
    """A handler that follows redirects only to URLs that a setting may have."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        """Return the request for the new URL. Raises ValueError for one without TLS."""
        secure_url(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch_text(url: str) -> str:
    """Return the text at the URL, through the proxy that the environment names. Raises OSError or ValueError."""
    ends = time.monotonic() + FETCH_SECONDS
    opener = urllib.request.build_opener(_SecureRedirects)
    found = bytearray()
    with opener.open(url, timeout=FETCH_SECONDS / 2) as response:
        while piece := response.read1(64 * 1024):
            found += piece
            if len(found) > MAX_BYTES:
                raise ValueError(f"has more than {MAX_BYTES} bytes")
            if time.monotonic() > ends:
                raise TimeoutError(f"has not come whole within {FETCH_SECONDS:g} s")
    return found.decode("utf-8")


def _warn(kid: object, kty: object) -> None:
    log.warning("a key of the key set can't be read", kid=kid, kty=kty)


def _words(error: Exception) -> str:
    """Return the reason of a failed fetch on one line."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return " ".join(str(reason).split()) or type(error).__name__
