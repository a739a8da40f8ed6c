"""Tokens: which are good, which are refused, and how keys are rotated."""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from pollcast.services.auth import keyset
from pollcast.services.auth.keyset import LOOK_SECONDS, KeySet
from pollcast.services.auth.tokens import (
    MAX_SUBJECT_BYTES,
    MAX_TOKEN_CHARS,
    TokenClaims,
    Verifier,
    bearer_from_subprotocols,
    from_header,
    read_claims,
    sign,
)
from pollcast.services.errors import SettingsInvalid, Unauthorized
from pollcast.services.process import jwks
from pollcast.services.process.settings import GatewaySettings
from pollcast.services.process.settings import load as load_settings

SECRET = "a secret of at least thirty-two bytes"
NOW = 1_800_000_000.0


def settings(**flags: Any) -> GatewaySettings:
    return load_settings(GatewaySettings, catalog=Path("c.toml"), **flags)


def verifier(**flags: Any) -> Verifier:
    made = Verifier.from_settings(settings(**{"auth_secret": SECRET, **flags}))
    assert made is not None
    return made


common_verifier = cache(verifier)
"""One for many examples: making it takes longer than what it does."""


def refusal(token: str, by: Verifier) -> str:
    with pytest.raises(Unauthorized) as refused:
        by.verify(token)
    detail = refused.value.detail
    assert len(detail) < 200
    assert not token or token not in detail
    assert not any(len(part) > 8 and part in detail for part in token.split("."))
    return detail


# --- HS256 ----------------------------------------------------------------------------------------------------------


def test_a_signed_token_is_verified_and_its_claims_are_read() -> None:
    expires_at = time.time() + 60
    token = sign(SECRET, {"sub": "alice", "roles": ["ops"], "exp": expires_at, "tenant_id": "acme"})
    claims = verifier().verify(token)
    assert (claims.subject, claims.roles, claims.expires_at) == ("alice", ("ops",), expires_at)
    assert claims.values["tenant_id"] == "acme"


def test_a_token_needs_no_claims_at_all() -> None:
    assert verifier().verify(sign(SECRET, {})) == TokenClaims(None, (), None, {})


@pytest.mark.parametrize(
    ("claims", "detail"),
    [
        ({"exp": 1}, "has expired"),
        ({"exp": 1.5}, "has expired"),
        ({"exp": 0}, "has expired"),
        ({"nbf": 10**11}, "is not valid yet"),
        ({"nbf": "x"}, "nbf must be a number"),
        ({"exp": "99999999999"}, "exp must be a number"),
        ({"exp": None}, "exp must be a number"),
        ({"exp": True}, "exp must be a number"),
        ({"exp": 10**400}, "exp must be a number"),
        ({"exp": math.inf}, "exp must be a number"),
        ({"exp": math.nan}, "exp must be a number"),
        ({"sub": ""}, "sub must be a string"),
        ({"sub": 7}, "sub must be a string"),
        ({"sub": None}, "sub must be a string"),
        ({"sub": "\ud800"}, "sub must be a string"),
        ({"sub": "ü" * 129}, "of 1 to 256 bytes"),
        ({"roles": 1}, "roles must be"),
        ({"roles": ["a", 1]}, "roles must be"),
        ({"roles": None}, "roles must be"),
    ],
)
def test_a_token_with_a_bad_claim_is_refused(claims: Mapping[str, object], detail: str) -> None:
    assert detail in refusal(jwt.encode(dict(claims), SECRET), verifier())


def test_a_token_expires_the_moment_that_it_says() -> None:
    assert read_claims({"exp": NOW + 0.001, "nbf": NOW}, NOW).expires_at == NOW + 0.001
    with pytest.raises(Unauthorized, match="expired"):
        read_claims({"exp": NOW}, NOW)


def test_roles_are_a_list_or_one_string_with_spaces() -> None:
    assert read_claims({"roles": ["a b", "c"]}, NOW).roles == ("a b", "c")
    assert read_claims({"roles": " a  b "}, NOW).roles == ("a", "b")
    assert read_claims({"roles": ""}, NOW).roles == ()


def test_a_subject_may_have_256_bytes() -> None:
    assert read_claims({"sub": "ü" * (MAX_SUBJECT_BYTES // 2)}, NOW).subject == "ü" * 128


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forged(header: object, payload: bytes = b"{}", signature: bytes = b"x") -> str:
    return ".".join((b64(json.dumps(header).encode()), b64(payload), b64(signature)))


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "a.b.c",
        "....",
        "ü",
        "\ud800",
        "x" * (MAX_TOKEN_CHARS + 1),
        jwt.encode({"sub": "mallory"}, "", algorithm="none"),
        forged({"alg": "none"}, signature=b""),
        forged({"alg": "NoNe"}, signature=b""),
        forged({"alg": None}),
        forged({}),
        forged([]),
        forged({"alg": "HS256"}),
        forged({"alg": "HS256", "kid": 7}),
        forged({"alg": "HS256", "crit": ["x"], "x": 1}),
        forged({"alg": "HS256", "b64": False}),
        forged({"alg": "RS256"}),
        b64(b"[" * 10_000) + ".e30.eA",
        jwt.encode({"sub": "mallory"}, "another secret, of thirty-two bytes too"),
        jwt.encode({"sub": "mallory"}, SECRET * 2, algorithm="HS512"),
        jwt.encode({"sub": "alice"}, SECRET)[:-4],
        jwt.encode({"sub": "alice"}, SECRET) + "x",
    ],
)
def test_a_forged_or_broken_token_is_refused_and_not_told(token: str) -> None:
    refusal(token, verifier())


def test_a_signed_text_that_is_no_json_object_is_refused() -> None:
    for payload in (b"[]", b"1", b"{", b"\xff", b'"' + b"[" * 5000, b"[" * 5000):
        refusal(jwt.PyJWS().encode(payload, SECRET, algorithm="HS256"), verifier())


@given(st.text(max_size=60) | st.text("abcdeyJ0._-=", max_size=60))
def test_whatever_a_client_sends_is_refused_as_unauthorized(token: str) -> None:
    with pytest.raises(Unauthorized):
        common_verifier().verify(token)


@given(
    st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk"]), st.none() | st.text() | st.floats())
)
def test_whatever_a_header_holds_is_refused_as_unauthorized(header: dict[str, object]) -> None:
    with pytest.raises(Unauthorized):
        common_verifier().verify(forged(header))


def test_audience_and_issuer_are_checked_when_set() -> None:
    token = sign(SECRET, {"aud": ["a", "pollcast"], "iss": "me"})
    verifier(auth_audience="pollcast", auth_issuer="me").verify(token)
    verifier().verify(token)
    assert "audience" in refusal(token, verifier(auth_audience="other"))
    assert "issuer" in refusal(token, verifier(auth_issuer="other"))
    assert "has no aud" in refusal(sign(SECRET, {}), verifier(auth_audience="pollcast"))
    assert "has no iss" in refusal(sign(SECRET, {}), verifier(auth_issuer="me"))


def test_no_verifier_where_no_tokens_are_asked_for() -> None:
    assert Verifier.from_settings(settings()) is None
    assert Verifier.from_settings(settings(auth="none")) is None


@pytest.mark.parametrize("secret", ["", "\udcff" * 40, "-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----"])
def test_a_secret_that_cannot_be_one_is_refused_at_start(secret: str) -> None:
    with pytest.raises(SettingsInvalid, match="POLLCAST_AUTH_SECRET"):
        verifier(auth_secret=secret)


def test_what_cannot_be_signed_says_so() -> None:
    with pytest.raises(ValueError, match=r"."):
        sign("", {})
    with pytest.raises(ValueError, match=r"."):
        sign(SECRET, {"x": object()})


# --- key sets -------------------------------------------------------------------------------------------------------


@cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    """One per name: making them takes a while."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


EC_KEY, ED_KEY = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()

Jwk = dict[str, Any]


def rsa_jwk(name: str, **more: str) -> Jwk:
    return {**RSAAlgorithm.to_jwk(rsa_key(name).public_key(), as_dict=True), "kid": name, **more}


def ec_jwk() -> Jwk:
    return {**ECAlgorithm.to_jwk(EC_KEY.public_key(), as_dict=True), "kid": "ec"}


def ed_jwk() -> Jwk:
    return {**OKPAlgorithm.to_jwk(ED_KEY.public_key(), as_dict=True), "kid": "ed"}


def write(file: Path, *keys: object) -> Path:
    file.write_text(json.dumps({"keys": keys}))
    return file


def rs256(name: str, kid: str | None = None, **claims: object) -> str:
    headers = {"kid": kid} if kid else None
    return jwt.encode({"sub": name, **claims}, rsa_key(name), algorithm="RS256", headers=headers)


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def pass_seconds(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "jwks.json"


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
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


def test_keys_are_picked_by_their_id(file: Path) -> None:
    by = verifier(auth_secret=None, auth_jwks=write(file, rsa_jwk("a"), rsa_jwk("b"), ec_jwk(), ed_jwk()))
    assert by.verify(rs256("a", kid="a")).subject == "a"
    assert by.verify(rs256("b", kid="b")).subject == "b"
    assert by.verify(jwt.encode({"sub": "c"}, EC_KEY, algorithm="ES256", headers={"kid": "ec"})).subject == "c"
    assert by.verify(jwt.encode({"sub": "d"}, ED_KEY, algorithm="EdDSA", headers={"kid": "ed"})).subject == "d"
    assert "signature" in refusal(rs256("a", kid="b"), by)
    assert "not in the key set" in refusal(rs256("a", kid="zzz"), by)
    assert "not in the key set" in refusal(rs256("a", kid="ec"), by)


def test_without_an_id_any_key_for_the_algorithm_will_do(file: Path) -> None:
    by = verifier(auth_secret=None, auth_jwks=write(file, rsa_jwk("a"), ec_jwk()))
    assert by.verify(rs256("a")).subject == "a"
    assert by.verify(jwt.encode({"sub": "c"}, EC_KEY, algorithm="ES256")).subject == "c"
    both = verifier(auth_secret=None, auth_jwks=write(file, rsa_jwk("a"), rsa_jwk("b")))
    assert both.verify(rs256("a")).subject == "a"
    assert both.verify(rs256("b")).subject == "b"
    assert "signature" in refusal(rs256("c"), both)
    assert "expired" in refusal(rs256("a", exp=1), both)


def test_a_key_without_an_id_fits_a_token_of_any(file: Path) -> None:
    anonymous = {name: value for name, value in rsa_jwk("b").items() if name != "kid"}
    by = verifier(auth_secret=None, auth_jwks=write(file, rsa_jwk("a"), anonymous))
    assert by.verify(rs256("b", kid="b")).subject == "b"
    assert by.verify(rs256("a", kid="a")).subject == "a"
    assert "signature" in refusal(rs256("a", kid="b"), by)


def test_a_public_key_is_no_secret(file: Path) -> None:
    jwk = rsa_jwk("a")
    by = verifier(auth_secret=None, auth_jwks=write(file, jwk, {"kty": "oct", "k": b64(SECRET.encode()), "kid": "s"}))
    assert "not in the key set" in refusal(jwt.encode({}, SECRET, headers={"kid": "a"}), by)
    assert "not in the key set" in refusal(jwt.encode({}, SECRET, headers={"kid": "s"}), by)
    assert "not in the key set" in refusal(jwt.encode({}, rsa_key("a"), algorithm="RS512", headers={"kid": "a"}), by)
    assert "not signed" in refusal(forged({"alg": "none", "kid": "a"}), by)


def test_keys_for_something_else_and_broken_ones_are_passed_over(file: Path, logged: list[str]) -> None:
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
def test_a_file_that_is_no_key_set_is_refused_at_start(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(SettingsInvalid, match="POLLCAST_AUTH_JWKS"):
        verifier(auth_secret=None, auth_jwks=file)


def test_a_file_that_is_not_there_is_refused_at_start(file: Path) -> None:
    with pytest.raises(SettingsInvalid, match="No such file"):
        verifier(auth_secret=None, auth_jwks=file)


def rotation(file: Path, *keys: Jwk) -> tuple[Verifier, Clock]:
    clock = Clock()
    return Verifier(KeySet(write(file, *keys), clock)), clock


def test_a_new_key_is_taken_without_a_restart(file: Path, logged: list[str]) -> None:
    by, clock = rotation(file, rsa_jwk("a"))
    write(file, rsa_jwk("a"), rsa_jwk("b"))
    assert "not in the key set" in refusal(rs256("b", kid="b"), by)  # the file was looked at just now
    clock.pass_seconds(LOOK_SECONDS)
    assert by.verify(rs256("b", kid="b")).subject == "b"
    assert by.verify(rs256("a", kid="a")).subject == "a"
    assert logged == ["key set read again"]


def test_a_key_that_is_gone_is_refused(file: Path, logged: list[str]) -> None:
    by, clock = rotation(file, rsa_jwk("a"), rsa_jwk("b"))
    write(file, rsa_jwk("b"))
    clock.pass_seconds(LOOK_SECONDS)
    assert "not in the key set" in refusal(rs256("a", kid="a"), by)
    assert by.verify(rs256("b", kid="b")).subject == "b"


def test_an_unknown_key_is_looked_for_at_most_once_per_second(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_new_file_that_cannot_be_used_leaves_the_keys_as_they_were(
    file: Path, logged: list[str], text: str | None
) -> None:
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


# --- where a token stands -------------------------------------------------------------------------------------------


def test_the_token_is_found_among_the_subprotocols_as_phoenix_js_sends_it() -> None:
    for token in (sign(SECRET, {"sub": "alice"}), "a", "ab", "abc", "???>>>"):
        encoded = base64.b64encode(token.encode()).rstrip(b"=").decode()
        assert bearer_from_subprotocols(["phoenix", f"base64url.bearer.phx.{encoded}"]) == token
        url_safe = encoded.replace("+", "-").replace("/", "_")
        assert bearer_from_subprotocols([f"base64url.bearer.phx.{url_safe}", "phoenix"]) == token


@pytest.mark.parametrize(
    "subprotocols",
    [[], ["phoenix"], ["base64url.bearer.phx.a"], ["base64url.bearer.phx.a.b"], ["base64url.bearer.phx._w"]],
)
def test_no_token_is_found_where_none_can_be_read(subprotocols: list[str]) -> None:
    assert bearer_from_subprotocols(subprotocols) is None


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer x.y.z", "x.y.z"),
        ("bearer  x ", "x"),
        ("Basic eA==", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("", None),
        (None, None),
    ],
)
def test_the_token_is_found_in_the_authorization_header(header: str | None, token: str | None) -> None:
    assert from_header(header) == token
