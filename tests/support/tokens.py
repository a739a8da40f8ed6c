"""Tokens of tests, good and forged, and verifiers of them."""

from __future__ import annotations

import base64
import json
import math
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pollcast.services.auth.tokens import Verifier, sign
from pollcast.services.errors import Unauthorized
from pollcast.services.process.settings import GatewaySettings, load

SECRET = "a secret of at least thirty-two bytes"
"""The secret that signs tokens: that of the fixture `guarded` and of `verifier()`."""


def token(seconds: float = 60.0, **claims: object) -> str:
    """Return a token of the subject alice that expires after `seconds`, or up to a second later."""
    return sign(SECRET, {"sub": "alice", "exp": math.ceil(time.time() + seconds), **claims})


def settings(**flags: Any) -> GatewaySettings:
    """Return a gateway's settings with these flags."""
    return load(GatewaySettings, catalog=Path("c.toml"), **flags)


def verifier(**flags: Any) -> Verifier:
    """Return the verifier of a gateway with these flags, by default one for tokens signed with SECRET."""
    made = Verifier.from_settings(settings(**{"auth_secret": SECRET, **flags}))
    assert made is not None
    return made


common_verifier = cache(verifier)
"""A verifier for many examples: making one takes longer than using it."""


def refusal(token: str, by: Verifier) -> str:
    """Assert that the token is refused; return the reason, which must hold no part of the token."""
    with pytest.raises(Unauthorized) as refused:
        by.verify(token)
    detail = refused.value.detail
    assert len(detail) < 200
    assert not token or token not in detail
    assert not any(len(part) > 8 and part in detail for part in token.split("."))
    return detail


def b64(data: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forged(header: object, payload: bytes = b"{}", signature: bytes = b"x") -> str:
    """Return a token with any header, payload and signature."""
    return ".".join((b64(json.dumps(header).encode()), b64(payload), b64(signature)))
