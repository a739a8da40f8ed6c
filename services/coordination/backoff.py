"""The pauses between the retries of a request to etcd."""

from __future__ import annotations

import random

RETRY_SECONDS = 0.1
"""Pause before the first retry, in seconds."""

MAX_RETRY_SECONDS = 2.0
"""Maximum pause before a retry, in seconds."""


def backoff(attempt: int) -> float:
    """Return the pause before retry number `attempt` (from 0), in seconds: it doubles from RETRY_SECONDS up
    to MAX_RETRY_SECONDS. Up to half of it is left out at random, so that processes do not retry in step."""
    return min(MAX_RETRY_SECONDS, RETRY_SECONDS * 2.0 ** min(attempt, 10)) * random.uniform(0.5, 1.0)
