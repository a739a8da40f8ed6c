"""Tokens: where they come from, and when to renew them. Pure but for calling the caller's function."""

from __future__ import annotations

import base64
import binascii
import inspect
import json
from collections.abc import Awaitable, Callable

TokenSource = str | Callable[[], str | Awaitable[str | None] | None]
"""A token; or a function, async or not, that returns a fresh one, or None when no token is needed. It is called for
each connection, and some time before its last token expires."""

LEAD_SECONDS = 60.0
"""Time before its expiry at which a token is renewed, in seconds."""

AGAIN_SECONDS = 5.0
"""Pause before the function is called again that failed or returned no new token, in seconds."""


async def token_of(source: TokenSource | None) -> str | None:
    """Return a token from its source. Raises what the function raises."""
    if source is None or isinstance(source, str):
        return source
    token = source()
    return await token if inspect.isawaitable(token) else token


def expires_at(token: str) -> float | None:
    """Return when a JWT expires, in seconds since the Unix epoch, or None when it does not say. It is not verified."""
    parts = token.split(".")
    try:
        body = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        expiry = body["exp"]
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
        return None
    return float(expiry) if isinstance(expiry, int | float) and not isinstance(expiry, bool) else None


def renew_in(token: str, now: float) -> float | None:
    """Return how long after `now`, in seconds since the Unix epoch, to renew a token, in seconds: until a minute before
    its expiry, or for half of the remaining time if that is later. None for a token that does not expire, or has."""
    expiry = expires_at(token)
    if expiry is None or expiry <= now:
        return None
    return max(expiry - now - LEAD_SECONDS, (expiry - now) / 2)
