"""Tokens for the clusters of tests that require them."""

from __future__ import annotations

import math
import time

from pollcast.services.auth.tokens import sign

SECRET = "a secret of at least thirty-two bytes"
"""The secret that signs the tokens of the fixture `guarded`."""


def token(seconds: float = 60.0, **claims: object) -> str:
    """Return a token of the subject alice that expires after `seconds`, or up to a second later."""
    return sign(SECRET, {"sub": "alice", "exp": math.ceil(time.time() + seconds), **claims})
