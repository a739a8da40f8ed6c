"""Tokens: JWTs that are verified with a shared secret or a JWK set file (docs/reference/security.md#tokens).

A gateway has one `Verifier`. With a key set it reads the file again when the file changes or when a token names a key
that the file did not have, at most once per second, so that keys rotate without a restart. An unusable new file is
logged, and the keys stay as they were. No error message and no log line holds a token.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol

import jwt

from pollcast.services.auth.keyset import KeySet
from pollcast.services.auth.remote_keyset import RemoteKeySet
from pollcast.services.errors import Problem, SettingsInvalid, Unauthorized
from pollcast.services.process.jwks import VerifyKey
from pollcast.services.process.logs import get_logger
from pollcast.services.process.settings import GatewaySettings

MAX_TOKEN_CHARS: Final = 16 * 1024
"""Maximum length of a token, in characters."""

MAX_SUBJECT_BYTES: Final = 256
"""Maximum length of the `sub` claim, in bytes of UTF-8 (docs/reference/channels.md#presence)."""

GOOD_SECRET_BYTES: Final = 32
"""Length of a shared secret below which a warning is logged, in bytes (RFC 7518, section 3.2)."""

SUBPROTOCOL_PREFIX: Final = "base64url.bearer.phx."
"""Prefix of the WebSocket subprotocol that carries a token in base64 (docs/reference/channels.md#tokens)."""

log = get_logger("auth")


@dataclass(frozen=True, slots=True)
class TokenClaims:
    """The claims of a verified token."""

    subject: str | None  # `sub`: the presence key, 1 to 256 bytes of UTF-8
    roles: tuple[str, ...]
    expires_at: float | None  # seconds since the Unix epoch
    values: Mapping[str, object]  # every claim, as decoded from JSON


class KeySource(Protocol):
    """A source of keys that may verify a token."""

    def find(self, algorithm: str, kid: str | None) -> Sequence[VerifyKey]:
        """Return the keys that may have signed a token with this algorithm and key id, at least one.

        Raises Unauthorized when there is none.
        """
        ...


class Secret:
    """A shared secret that verifies HS256 signatures. It may change: `secret` returns the present one."""

    def __init__(self, secret: Callable[[], str]) -> None:
        """Prepare the secret. Raises ValueError when it is unusable: empty, not UTF-8, or a public key in PEM."""
        self._secret = secret
        self._text = secret()
        self._key = _shared_key(self._text)

    def find(self, algorithm: str, kid: str | None) -> Sequence[VerifyKey]:
        """Return the secret. Raises Unauthorized for any algorithm but HS256."""
        if algorithm != "HS256":
            raise Unauthorized("the token is not signed with HS256, as it must be here")
        text = self._secret()
        if text != self._text:
            self._text = text
            try:
                self._key = _shared_key(text)
            except ValueError as error:
                log.error("the new secret can't be used; the old one stays", detail=str(error))
        return (self._key,)


def _shared_key(secret: str) -> VerifyKey:
    """Return the key of a shared secret. Raises ValueError when it is unusable."""
    try:
        return VerifyKey(None, "HS256", jwt.get_algorithm_by_name("HS256").prepare_key(secret.encode()))
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8") from None
    except jwt.InvalidKeyError as error:
        raise ValueError(str(error)) from None


class Verifier:
    """A gateway's verifier of tokens. It has no state but its keys."""

    def __init__(
        self, keys: KeySource, audience: str | None = None, issuer: str | None = None, roles_claim: str = "roles"
    ) -> None:
        self._keys, self._audience, self._issuer, self._roles_claim = keys, audience, issuer, roles_claim

    @classmethod
    def from_settings(cls, settings: GatewaySettings) -> Verifier | None:
        """Return the verifier for these settings; None when they require no tokens.

        Raises SettingsInvalid for an unusable secret or key set.
        """
        keys: KeySource
        if settings.auth_secret is not None:
            secret = settings.secret("auth_secret")
            try:
                keys = Secret(secret)
            except ValueError as error:
                raise SettingsInvalid([Problem("settings", "", "POLLCAST_AUTH_SECRET", str(error))]) from None
            if len(secret().encode()) < GOOD_SECRET_BYTES:
                log.warning("the secret is short and can be guessed", at_least_bytes=GOOD_SECRET_BYTES)
        elif settings.auth_jwks is not None:
            try:
                keys = KeySet(settings.auth_jwks)
            except (OSError, ValueError) as error:
                raise SettingsInvalid([Problem("settings", "", "POLLCAST_AUTH_JWKS", str(error))]) from None
        elif settings.auth_jwks_url is not None:
            keys = RemoteKeySet(settings.auth_jwks_url)
            keys.start()
        else:
            return None
        return cls(keys, settings.auth_audience, settings.auth_issuer, settings.auth_roles_claim)

    def verify(self, token: str) -> TokenClaims:
        """Return the token's claims. Raises Unauthorized, whose detail never holds the token, unless it is valid
        now."""
        if not token:
            raise Unauthorized("the token is empty")
        if len(token) > MAX_TOKEN_CHARS or not token.isascii():
            raise Unauthorized(f"the token is not a JWT of at most {MAX_TOKEN_CHARS} ASCII characters")
        try:
            header = jwt.get_unverified_header(token)
            algorithm, kid = header.get("alg"), header.get("kid")
            if not isinstance(algorithm, str) or algorithm.lower() == "none":
                raise Unauthorized("the token is not signed")
            payload = self._decoded(token, self._keys.find(algorithm, kid if isinstance(kid, str) else None))
        except jwt.PyJWTError as error:
            raise Unauthorized(_reason(error)) from None
        except RecursionError:  # from JSON nested without end
            raise Unauthorized("the token is not a JWT") from None
        return read_claims(payload, time.time(), self._roles_claim)

    def _decoded(self, token: str, keys: Sequence[VerifyKey]) -> dict[str, Any]:
        """Return the claims, verified by the first key that fits the signature. Raises jwt.PyJWTError."""
        for key in keys[:-1]:
            with contextlib.suppress(jwt.InvalidSignatureError):
                return self._decoded_by(token, key)
        return self._decoded_by(token, keys[-1])

    def _decoded_by(self, token: str, key: VerifyKey) -> dict[str, Any]:
        """Return the claims, verified by this key. Raises jwt.PyJWTError."""
        return jwt.decode(
            token,
            key.key,
            algorithms=[key.algorithm],
            audience=self._audience,
            issuer=self._issuer,
            # `read_claims` checks times, subject and roles, their JSON types included.
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


def read_claims(payload: Mapping[str, Any], now: float, roles_claim: str = "roles") -> TokenClaims:
    """Return the claims of a token whose signature was verified. `roles_claim` is the path of its roles.

    Raises Unauthorized when a claim has the wrong shape, or when the token is not valid at `now`, in seconds since the
    Unix epoch.
    """
    expires_at, not_before = _seconds(payload, "exp"), _seconds(payload, "nbf")
    if expires_at is not None and expires_at <= now:
        raise Unauthorized("the token has expired")
    if not_before is not None and not_before > now:
        raise Unauthorized("the token is not valid yet")
    subject = payload.get("sub")
    if "sub" in payload and not _is_subject(subject):
        raise Unauthorized(f"the token's sub must be a string of 1 to {MAX_SUBJECT_BYTES} bytes")
    return TokenClaims(
        subject, _roles(_at(payload, roles_claim), roles_claim), expires_at, MappingProxyType(dict(payload))
    )


def sign(secret: str, claims: Mapping[str, object]) -> str:
    """Return a token with these claims, signed with HS256.

    Raises ValueError for an unusable secret or a claim that JSON cannot represent.
    """
    try:
        return jwt.encode(dict(claims), secret, algorithm="HS256")
    except (jwt.InvalidKeyError, TypeError) as error:
        raise ValueError(str(error)) from None


def bearer_from_subprotocols(subprotocols: Iterable[str]) -> str | None:
    """Return the token that phoenix.js's `authToken` put among the subprotocols of a WebSocket; None when there is
    none, or when it cannot be decoded."""
    for subprotocol in subprotocols:
        if subprotocol.startswith(SUBPROTOCOL_PREFIX):
            # phoenix.js writes btoa()'s alphabet although the prefix names base64url; other clients write base64url.
            encoded = subprotocol.removeprefix(SUBPROTOCOL_PREFIX).rstrip("=").replace("-", "+").replace("_", "/")
            try:
                return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True).decode()
            except (binascii.Error, ValueError):
                return None
    return None


def from_header(authorization: str | None) -> str | None:
    """Return the token of an `Authorization: Bearer …` header; None without the header or with another scheme."""
    scheme, _, token = (authorization or "").strip().partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _seconds(payload: Mapping[str, Any], claim: str) -> float | None:
    """Return a claim that holds a time, in seconds since the Unix epoch; None when it is absent."""
    value = payload.get(claim)
    if claim not in payload:
        return None
    # The bound comes first: isfinite() fails on an int that is too large for a float.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e15 or not math.isfinite(value):
        raise Unauthorized(f"the token's {claim} must be a number of seconds since 1970")
    return float(value)


def _is_subject(subject: object) -> bool:
    """Return whether a `sub` claim is a valid presence key: valid Unicode of 1 to MAX_SUBJECT_BYTES bytes in UTF-8."""
    if not isinstance(subject, str) or any("\ud800" <= c <= "\udfff" for c in subject):
        return False
    return 1 <= len(subject.encode()) <= MAX_SUBJECT_BYTES


def _at(payload: Mapping[str, Any], path: str) -> object:
    """Return the claim with this name or, if there is none, at this path with dots; an empty list when it is absent.

    A name may contain dots itself: `https://example.org/roles`.
    """
    if path in payload:
        return payload[path]
    found: object = payload
    for name in path.split("."):
        if not isinstance(found, Mapping) or name not in found:
            return []
        found = found[name]
    return found


def _roles(roles: object, claim: str) -> tuple[str, ...]:
    """Return the roles of a token, whose claim is a list of strings or one string divided by spaces."""
    if isinstance(roles, str):
        return tuple(roles.split())
    if isinstance(roles, list) and all(isinstance(role, str) for role in roles):
        return tuple(roles)
    raise Unauthorized(f"the token's {claim} must be a list of strings, or one string divided by spaces")


def _reason(error: jwt.PyJWTError) -> str:
    """Return our own message for an error of PyJWT, whose messages may quote the token."""
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
            return "the token is not a JWT"
