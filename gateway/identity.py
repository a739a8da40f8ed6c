"""Who a client is: what its token says, or nobody in particular when no tokens are asked for. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pollcast.services.auth.tokens import TokenClaims, Verifier
from pollcast.services.errors import Unauthorized


@dataclass(frozen=True, slots=True)
class Identity:
    """`values` is None without a token: then a parameter that is bound from a claim is out of reach."""

    subject: str | None = None
    roles: tuple[str, ...] = ()
    expires_at: float | None = None  # seconds since the Unix epoch
    values: Mapping[str, object] | None = field(default=None, repr=False)

    def expired(self, at: float) -> bool:
        return self.expires_at is not None and self.expires_at < at

    def lifetime(self, at: float) -> float | None:
        """Seconds from `at` until the token expires, not below 0; None: it never does."""
        return None if self.expires_at is None else max(0.0, self.expires_at - at)


NOBODY = Identity()


class Authenticator:
    """Turns tokens into identities. Without a verifier no tokens are asked for, and none is looked at."""

    def __init__(self, verifier: Verifier | None) -> None:
        self._verifier = verifier

    def identify(self, token: str | None) -> Identity:
        """Raises Unauthorized."""
        if self._verifier is None:
            return NOBODY
        if not token:
            raise Unauthorized("a token is needed")
        return _identity(self._verifier.verify(token))


def _identity(claims: TokenClaims) -> Identity:
    return Identity(claims.subject, claims.roles, claims.expires_at, claims.values)
