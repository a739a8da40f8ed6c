"""The identity of a client: the claims of its token, or ANONYMOUS when no tokens are required."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pollcast.services.auth.tokens import TokenClaims, Verifier
from pollcast.services.errors import Unauthorized
from pollcast.services.serving.refusals import refused


@dataclass(frozen=True, slots=True)
class Identity:
    """A client's subject, roles and claims.

    `values` has the token's claims by name. It is None without a token, and then queries with a parameter that is bound
    from a claim cannot be used.
    """

    subject: str | None = None
    roles: tuple[str, ...] = ()
    expires_at: float | None = None  # seconds since the Unix epoch
    values: Mapping[str, object] | None = field(default=None, repr=False)

    def expired(self, at: float) -> bool:
        """Return whether the token had expired at this time, in seconds since the Unix epoch."""
        return self.expires_at is not None and self.expires_at < at

    def lifetime(self, at: float) -> float | None:
        """Return the seconds from `at` until the token expires, at least 0; None when it never expires."""
        return None if self.expires_at is None else max(0.0, self.expires_at - at)


ANONYMOUS = Identity()
"""The identity of every client when no tokens are required."""


class Authenticator:
    """A gateway's check of tokens. Without a verifier, no token is required and none is read."""

    def __init__(self, verifier: Verifier | None) -> None:
        self._verifier = verifier

    @property
    def required(self) -> bool:
        """Whether tokens are required."""
        return self._verifier is not None

    def identify(self, token: str | None) -> Identity:
        """Return the identity of the client that sent the token. Raises Unauthorized when it is missing or invalid."""
        if self._verifier is None:
            return ANONYMOUS
        try:
            if not token:
                raise Unauthorized("a token is needed")
            return _identity(self._verifier.verify(token))
        except Unauthorized as error:
            refused("token", detail=error.detail)
            raise


def _identity(claims: TokenClaims) -> Identity:
    return Identity(claims.subject, claims.roles, claims.expires_at, claims.values)
