"""JWK sets (RFC 7517) as text: the public keys that verify tokens signed with RS256, ES256 or EdDSA. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

ALGORITHMS: Final = {("RSA", None): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}
"""The only algorithm that a key is used with, by the key's type and curve."""

OnBroken = Callable[[object, object], None]
"""Callback for a key that cannot be read, with its `kid` and `kty`."""


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """A public key, or a shared secret, and the only algorithm that it is used with."""

    kid: str | None
    algorithm: str
    key: Any
    """The key in the form that PyJWT's `decode` takes."""


def parse(text: str, on_broken: OnBroken = lambda kid, kty: None) -> tuple[VerifyKey, ...]:
    """Return the usable keys of a JWK set. Keys for another purpose or algorithm are skipped (RFC 7517, section 5);
    keys that cannot be read are skipped as well and reported to `on_broken`.

    Raises ValueError when the text is not a JWK set, or holds no usable key.
    """
    try:
        document = json.loads(text)
    except RecursionError:
        raise ValueError("is not a JWK set: it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError('is not a JWK set: it must be an object with a list of "keys"')
    keys = tuple(key for entry in entries if (key := _key(entry, on_broken)) is not None)
    if not keys:
        raise ValueError("holds no key for RS256 (RSA), ES256 (P-256) or EdDSA (Ed25519) signatures")
    return keys


def _key(entry: object, on_broken: OnBroken) -> VerifyKey | None:
    """Read one entry of a JWK set. Return None for a key that is for another purpose or algorithm, or broken."""
    if not isinstance(entry, dict):
        return None
    kty, kid = entry.get("kty"), entry.get("kid")
    algorithm = ALGORITHMS.get((str(kty), None if kty == "RSA" else str(entry.get("crv"))))
    if algorithm is None or entry.get("use", "sig") != "sig" or entry.get("alg", algorithm) != algorithm:
        return None
    import jwt  # takes 50 ms, which a service without tokens need not spend

    try:
        key = jwt.PyJWK.from_dict(entry, algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        on_broken(kid, kty)
        return None
    # A private key verifies nothing; its public half does.
    public = key.public_key() if hasattr(key, "public_key") else key
    return VerifyKey(kid if isinstance(kid, str) else None, algorithm, public)
