"""Tokens: JWTs, verified with a shared secret or a JWK set file (CONTRACT.md §10).

A `Verifier` lives as long as its gateway. With a key set it reads the file again when that changed or when a token
names a key that is not in it, at most once per second, so keys are rotated without a restart; a new file that can't be
used is logged, and the keys stay as they were. No message, and no log line, ever holds a token.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol

import jwt

from pollcast.services.auth.keyset import KeySet
from pollcast.services.errors import Problem, SettingsInvalid, Unauthorized
from pollcast.services.process.jwks import VerifyKey
from pollcast.services.process.logs import get_logger
from pollcast.services.process.settings import GatewaySettings

MAX_TOKEN_CHARS: Final = 16 * 1024
MAX_SUBJECT_BYTES: Final = 256
GOOD_SECRET_BYTES: Final = 32  # RFC 7518 §3.2

SUBPROTOCOL_PREFIX: Final = "base64url.bearer.phx."

log = get_logger("auth")


@dataclass(frozen=True, slots=True)
class TokenClaims:
    """What a verified token says."""

    subject: str | None  # `sub`: the presence key, 1 to 256 bytes of UTF-8
    roles: tuple[str, ...]
    expires_at: float | None  # seconds since the Unix epoch
    values: Mapping[str, object]  # every claim, as JSON has it


class KeySource(Protocol):
    """Where the keys for a token come from."""

    def find(self, algorithm: str, kid: str | None) -> Sequence[VerifyKey]:
        """At least one; any of them may have signed the token. Raises Unauthorized when there is no such key."""
        ...


class Secret:
    """One shared secret, for HS256."""

    def __init__(self, secret: str) -> None:
        """ValueError for a secret that can't be one."""
        try:
            self._key = VerifyKey(None, "HS256", jwt.get_algorithm_by_name("HS256").prepare_key(secret.encode()))
        except UnicodeEncodeError:
            raise ValueError("is not UTF-8") from None
        except jwt.InvalidKeyError as error:
            raise ValueError(str(error)) from None

    def find(self, algorithm: str, kid: str | None) -> Sequence[VerifyKey]:
        if algorithm != "HS256":
            raise Unauthorized("the token is not signed with HS256, as it must be here")
        return (self._key,)


class Verifier:
    """Verifies tokens; has no state but its keys."""

    def __init__(self, keys: KeySource, audience: str | None = None, issuer: str | None = None) -> None:
        self._keys, self._audience, self._issuer = keys, audience, issuer

    @classmethod
    def from_settings(cls, settings: GatewaySettings) -> Verifier | None:
        """None when no tokens are asked for. Raises SettingsInvalid for a secret or a key set that can't be used."""
        keys: KeySource
        if settings.auth_secret is not None:
            secret = settings.auth_secret.get_secret_value()
            try:
                keys = Secret(secret)
            except ValueError as error:
                raise SettingsInvalid([Problem("settings", "", "POLLCAST_AUTH_SECRET", str(error))]) from None
            if len(secret.encode()) < GOOD_SECRET_BYTES:
                log.warning("the secret is short, and may be guessed", at_least_bytes=GOOD_SECRET_BYTES)
        elif settings.auth_jwks is not None:
            try:
                keys = KeySet(settings.auth_jwks)
            except (OSError, ValueError) as error:
                raise SettingsInvalid([Problem("settings", "", "POLLCAST_AUTH_JWKS", str(error))]) from None
        else:
            return None
        return cls(keys, settings.auth_audience, settings.auth_issuer)

    def verify(self, token: str) -> TokenClaims:
        """Raises Unauthorized, whose detail never holds the token, unless the token is good now."""
        if not token:
            raise Unauthorized("the token is empty")
        if len(token) > MAX_TOKEN_CHARS or not token.isascii():
            raise Unauthorized(f"the token is no JWT: those are ASCII, here of at most {MAX_TOKEN_CHARS} characters")
        try:
            header = jwt.get_unverified_header(token)
            algorithm, kid = header.get("alg"), header.get("kid")
            if not isinstance(algorithm, str) or algorithm.lower() == "none":
                raise Unauthorized("the token is not signed")
            payload = self._decoded(token, self._keys.find(algorithm, kid if isinstance(kid, str) else None))
        except jwt.PyJWTError as error:
            raise Unauthorized(_reason(error)) from None
        except RecursionError:  # from JSON nested without end
            raise Unauthorized("the token is no JWT") from None
        return read_claims(payload, time.time())

    def _decoded(self, token: str, keys: Sequence[VerifyKey]) -> dict[str, Any]:
        """The claims, by the first key that the signature fits. Raises jwt.PyJWTError."""
        for key in keys[:-1]:
            with contextlib.suppress(jwt.InvalidSignatureError):
                return self._decoded_by(token, key)
        return self._decoded_by(token, keys[-1])

    def _decoded_by(self, token: str, key: VerifyKey) -> dict[str, Any]:
        return jwt.decode(
            token,
            key.key,
            algorithms=[key.algorithm],
            audience=self._audience,
            issuer=self._issuer,
            # Times, subject and roles are checked in `read_claims`, and by their JSON types.
            options={
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
                "verify_sub": False,
                "verify_jti": False,
                "verify_aud": self._audience is not None,
                "verify_iss": self._issuer is not None,
            },
        )


def read_claims(payload: Mapping[str, Any], now: float) -> TokenClaims:
    """Claims of a token whose signature is good. Raises Unauthorized where a claim has the wrong shape, or when the
    token is not good at `now` (seconds since the Unix epoch)."""
    expires_at, not_before = _seconds(payload, "exp"), _seconds(payload, "nbf")
    if expires_at is not None and expires_at <= now:
        raise Unauthorized("the token has expired")
    if not_before is not None and not_before > now:
        raise Unauthorized("the token is not valid yet")
    subject = payload.get("sub")
    if "sub" in payload and not _is_subject(subject):
        raise Unauthorized(f"the token's sub must be a string of 1 to {MAX_SUBJECT_BYTES} bytes")
    return TokenClaims(subject, _roles(payload.get("roles", [])), expires_at, MappingProxyType(dict(payload)))


def sign(secret: str, claims: Mapping[str, object]) -> str:
    """A token with these claims, signed with HS256. ValueError for a secret that can't be one, or a claim that JSON
    can't hold."""
    try:
        return jwt.encode(dict(claims), secret, algorithm="HS256")
    except (jwt.InvalidKeyError, TypeError) as error:
        raise ValueError(str(error)) from None


def bearer_from_subprotocols(subprotocols: Iterable[str]) -> str | None:
    """The token that phoenix.js's `authToken` put among the subprotocols of a WebSocket. None when there is none that
    can be read."""
    for subprotocol in subprotocols:
        if subprotocol.startswith(SUBPROTOCOL_PREFIX):
            # phoenix.js writes btoa()'s alphabet, whatever the prefix says; others may take it at its word.
            encoded = subprotocol.removeprefix(SUBPROTOCOL_PREFIX).rstrip("=").replace("-", "+").replace("_", "/")
            try:
                return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True).decode()
            except (binascii.Error, ValueError):
                return None
    return None


def from_header(authorization: str | None) -> str | None:
    """The token of an `Authorization: Bearer …` header; None for none, or for another scheme."""
    scheme, _, token = (authorization or "").strip().partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _seconds(payload: Mapping[str, Any], claim: str) -> float | None:
    value = payload.get(claim)
    if claim not in payload:
        return None
    # The bound comes first: isfinite() can't take an int of any size.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e15 or not math.isfinite(value):
        raise Unauthorized(f"the token's {claim} must be a number of seconds since 1970")
    return float(value)


def _is_subject(subject: object) -> bool:
    if not isinstance(subject, str) or any("\ud800" <= c <= "\udfff" for c in subject):
        return False
    return 1 <= len(subject.encode()) <= MAX_SUBJECT_BYTES


def _roles(roles: object) -> tuple[str, ...]:
    if isinstance(roles, str):
        return tuple(roles.split())
    if isinstance(roles, list) and all(isinstance(role, str) for role in roles):
        return tuple(roles)
    raise Unauthorized("the token's roles must be a list of strings, or one string with spaces between them")


def _reason(error: jwt.PyJWTError) -> str:
    """PyJWT's own messages may quote what it was given."""
    match error:
        case jwt.InvalidSignatureError():
            return "the token's signature does not fit the key"
        case jwt.InvalidAudienceError():
            return "the token is for another audience"
        case jwt.InvalidIssuerError():
            return "the token is from another issuer"
        case jwt.MissingRequiredClaimError():
            return f"the token has no {error.claim}"
        case jwt.InvalidAlgorithmError():
            return "the token is signed with another algorithm"
        case _:
            return "the token is no JWT"
