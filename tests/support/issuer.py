"""An issuer of tokens whose public keys stand in a key set file."""

from __future__ import annotations

import json
import time
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


class Issuer:
    """An issuer of tokens with Ed25519 keys, which writes their public halves into a key set file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._keys: dict[str, Ed25519PrivateKey] = {}
        self.add("first")

    def add(self, kid: str) -> None:
        """Add a new key to the key set."""
        self._keys[kid] = Ed25519PrivateKey.generate()
        self._write()

    def remove(self, kid: str) -> None:
        """Remove a key from the key set."""
        del self._keys[kid]
        self._write()

    def token(self, kid: str = "first", seconds: float = 300, **claims: object) -> str:
        """Return a token that the key signs and that expires after `seconds`."""
        payload = {"sub": "alice", "aud": "pollcast", "iss": "tests", "exp": int(time.time() + seconds)} | claims
        return jwt.encode(payload, self._keys[kid], algorithm="EdDSA", headers={"kid": kid})

    def _write(self) -> None:
        algorithm = jwt.get_algorithm_by_name("EdDSA")
        keys = [json.loads(algorithm.to_jwk(key.public_key())) | {"kid": kid} for kid, key in self._keys.items()]
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps({"keys": keys}))
        new.replace(self.file)
