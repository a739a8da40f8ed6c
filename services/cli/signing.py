"""The command `pollcast token`: a signed token for trials and tests."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from pollcast.services.auth import tokens as auth
from pollcast.services.catalogue.fields import duration
from pollcast.services.errors import Problem, SettingsInvalid
from pollcast.services.process import variables


def sign_token(
    secret: str | None, *, sub: str | None, roles: Sequence[str], claims: Sequence[str], expires: str
) -> tuple[str, dict[str, object]]:
    """Return a token and its claims. `claims` are written `NAME=VALUE`; without `secret` that of the environment signs.

    Raises SettingsInvalid when a flag is wrong, or when there is no secret.
    """
    secret = secret or variables.alone("auth_secret", os.environ, secret=True)
    if not secret:
        raise _fault("POLLCAST_AUTH_SECRET", "is required")
    try:
        seconds = duration(1.0)(expires)
    except ValueError as error:
        raise _fault("--expires", str(error)) from None
    found: dict[str, object] = {"exp": int(time.time() + seconds)}
    if audience := variables.alone("auth_audience", os.environ):
        found["aud"] = audience
    if issuer := variables.alone("auth_issuer", os.environ):
        found["iss"] = issuer
    if sub is not None:
        found["sub"] = sub
    if roles:
        found["roles"] = list(roles)
    for each in claims:
        name, equals, value = each.partition("=")
        if not equals or not name:
            raise _fault("--claim", f"{each!r} is not NAME=VALUE")
        found[name] = value
    try:
        return auth.sign(secret, found), found
    except ValueError as error:
        raise _fault("POLLCAST_AUTH_SECRET", str(error)) from None


def _fault(field: str, reason: str) -> SettingsInvalid:
    return SettingsInvalid([Problem("pollcast token", "", field, reason)])
