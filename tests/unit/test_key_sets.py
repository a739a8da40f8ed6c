"""Key sets: which key verifies which token, and the rotation of keys without a restart."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from pollcast.services.auth import keyset
from pollcast.services.auth.keyset import LOOK_SECONDS, KeySet
from pollcast.services.auth.tokens import Verifier
from pollcast.services.errors import SettingsInvalid
from pollcast.services.process import jwks
from tests.support.tokens import SECRET, b64, forged, refusal, verifier


@cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    """Return the private key of this name, the same at each call: making one takes long."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


EC_KEY, ED_KEY = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()

Jwk = dict[str, Any]


def rsa_jwk(name: str, **more: str) -> Jwk:
    """Return the public key of this name as a JWK, with its name as the id."""
    return {**RSAAlgorithm.to_jwk(rsa_key(name).public_key(), as_dict=True), "kid": name, **more}


def ec_jwk() -> Jwk:
    """Return the public half of EC_KEY as a JWK."""
    return {**ECAlgorithm.to_jwk(EC_KEY.public_key(), as_dict=True), "kid": "ec"}


def ed_jwk() -> Jwk:
    """Return the public half of ED_KEY as a JWK."""
    return {**OKPAlgorithm.to_jwk(ED_KEY.public_key(), as_dict=True), "kid": "ed"}


def write(file: Path, *keys: object) -> Path:
    """Write a JWK set of these keys and return the file."""
    file.write_text(json.dumps({"keys": keys}))
    return file


def rs256(name: str, kid: str | None = None, **claims: object) -> str:
    """Return a token signed with the RSA key of this name, which is also its subject."""
    headers = {"kid": kid} if kid else None
    return jwt.encode({"sub": name, **claims}, rsa_key(name), algorithm="RS256", headers=headers)


class Clock:
    """A monotonic clock that only a test advances."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def pass_seconds(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The path of a JWK set, which a test writes."""
    return tmp_path / "jwks.json"


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The events that the key set logs."""
    events: list[str] = []

    class Log:
        def error(self, event: str, **fields: object) -> None:
            events.append(event)

        def warning(self, event: str, **fields: object) -> None:
            events.append(event)

        def info(self, event: str, **fields: object) -> None:
            events.append(event)

    monkeypatch.setattr(keyset, "log", Log())
    return events


def test_a_token_is_verified_by_the_key_of_its_id(file: Path) -> None:
    by = verifier(auth_secret=None, auth_jwks=write(file, rsa_jwk("a"), rsa_jwk("b"), ec_jwk(), ed_jwk()))
    assert by.verify(rs256("a", kid="a")).subject == "a"
    assert by.verify(rs256("b", kid="b")).subject == "b"
    assert by.verify(jwt.encode({"sub": "c"}, EC_KEY, algorithm="ES256", headers={"kid": "ec"})).subject == "c"
    assert by.verify(jwt.encode({"sub": "d"}, ED_KEY, algorithm="EdDSA", headers={"kid": "ed"})).subject == "d"
    assert "signature" in refusal(rs256("a", kid="b"), by)
    assert "not in the key set" in refusal(rs256("a", kid="zzz"), by)
    assert "not in the key set" in refusal(rs256("a", kid="ec"), by)


def test_a_token_without_an_id_is_verified_by_any_key_of_its_algorithm(file: Path) -> None:
    by = verifier(auth_secret=None, auth_jwks=write(file, rsa_jwk("a"), ec_jwk()))
    assert by.verify(rs256("a")).subject == "a"
    assert by.verify(jwt.encode({"sub": "c"}, EC_KEY, algorithm="ES256")).subject == "c"
    both = verifier(auth_secret=None, auth_jwks=write(file, rsa_jwk("a"), rsa_jwk("b")))
    assert both.verify(rs256("a")).subject == "a"
    assert both.verify(rs256("b")).subject == "b"
    assert "signature" in refusal(rs256("c"), both)
    assert "expired" in refusal(rs256("a", exp=1), both)


def test_a_key_without_an_id_verifies_tokens_of_any_id(file: Path) -> None:
    anonymous = {name: value for name, value in rsa_jwk("b").items() if name != "kid"}
    by = verifier(auth_secret=None, auth_jwks=write(file, rsa_jwk("a"), anonymous))
    assert by.verify(rs256("b", kid="b")).subject == "b"
    assert by.verify(rs256("a", kid="a")).subject == "a"
    assert "signature" in refusal(rs256("a", kid="b"), by)


def test_a_public_key_is_not_taken_as_a_shared_secret(file: Path) -> None:
    jwk = rsa_jwk("a")
    by = verifier(auth_secret=None, auth_jwks=write(file, jwk, {"kty": "oct", "k": b64(SECRET.encode()), "kid": "s"}))
    assert "not in the key set" in refusal(jwt.encode({}, SECRET, headers={"kid": "a"}), by)
    assert "not in the key set" in refusal(jwt.encode({}, SECRET, headers={"kid": "s"}), by)
    assert "not in the key set" in refusal(jwt.encode({}, rsa_key("a"), algorithm="RS512", headers={"kid": "a"}), by)
    assert "not signed" in refusal(forged({"alg": "none", "kid": "a"}), by)


def test_keys_for_other_purposes_and_broken_keys_are_skipped(file: Path, logged: list[str]) -> None:
    other = [
        rsa_jwk("a", use="enc"),
        rsa_jwk("a", alg="RS512"),
        {"kty": "RSA", "kid": "a", "n": "AQ"},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "ec"},
        {"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA"},
        "x",
        None,
        {},
    ]
    by = verifier(auth_secret=None, auth_jwks=write(file, *other, rsa_jwk("a", use="sig", alg="RS256")))
    assert by.verify(rs256("a", kid="a")).subject == "a"
    assert logged == ["a key of the key set can't be read"] * 2


def test_the_public_half_of_a_private_key_is_taken(file: Path) -> None:
    private = {**RSAAlgorithm.to_jwk(rsa_key("a"), as_dict=True), "kid": "a"}
    assert verifier(auth_secret=None, auth_jwks=write(file, private)).verify(rs256("a", kid="a")).subject == "a"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"keys": 1}', '{"keys": []}', '{"keys": [{}]}', "[" * 50_000])
def test_a_file_that_is_not_a_key_set_is_refused_at_start(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(SettingsInvalid, match="POLLCAST_AUTH_JWKS"):
        verifier(auth_secret=None, auth_jwks=file)


def test_a_missing_file_is_refused_at_start(file: Path) -> None:
    with pytest.raises(SettingsInvalid, match="No such file"):
        verifier(auth_secret=None, auth_jwks=file)


def rotation(file: Path, *keys: Jwk) -> tuple[Verifier, Clock]:
    """Return a verifier with a file of these keys, and the clock that it goes by."""
    clock = Clock()
    return Verifier(KeySet(write(file, *keys), clock)), clock


def test_a_new_key_is_used_without_a_restart(file: Path, logged: list[str]) -> None:
    by, clock = rotation(file, rsa_jwk("a"))
    write(file, rsa_jwk("a"), rsa_jwk("b"))
    assert "not in the key set" in refusal(rs256("b", kid="b"), by)  # the file was read a moment ago
    clock.pass_seconds(LOOK_SECONDS)
    assert by.verify(rs256("b", kid="b")).subject == "b"
    assert by.verify(rs256("a", kid="a")).subject == "a"
    assert logged == ["key set read again"]


def test_a_token_of_a_removed_key_is_refused(file: Path, logged: list[str]) -> None:
    by, clock = rotation(file, rsa_jwk("a"), rsa_jwk("b"))
    write(file, rsa_jwk("b"))
    clock.pass_seconds(LOOK_SECONDS)
    assert "not in the key set" in refusal(rs256("a", kid="a"), by)
    assert by.verify(rs256("b", kid="b")).subject == "b"


def test_an_unknown_key_id_makes_the_file_be_read_at_most_once_per_second(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by, clock = rotation(file, rsa_jwk("a"))
    reads = 0
    parse = jwks.parse

    def counted(text: str, on_broken: jwks.OnBroken) -> tuple[jwks.VerifyKey, ...]:
        nonlocal reads
        reads += 1
        return parse(text, on_broken)

    monkeypatch.setattr(jwks, "parse", counted)
    for _ in range(10):
        clock.pass_seconds(LOOK_SECONDS / 4)
        refusal(rs256("b", kid="b"), by)
    assert reads == 2


@pytest.mark.parametrize("text", ["", '{"keys": []}', None])
def test_an_unusable_new_file_leaves_the_keys_as_they_were(file: Path, logged: list[str], text: str | None) -> None:
    by, clock = rotation(file, rsa_jwk("a"))
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    clock.pass_seconds(LOOK_SECONDS)
    assert by.verify(rs256("a", kid="a")).subject == "a"
    assert logged == ["the key set can't be used; the keys stay as they were"]
    write(file, rsa_jwk("b"))
    clock.pass_seconds(LOOK_SECONDS)
    assert by.verify(rs256("b", kid="b")).subject == "b"
