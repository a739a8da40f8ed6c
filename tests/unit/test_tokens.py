"""Tokens: signatures, claims, and the places where a client may put one."""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Mapping

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from tests.support.tokens import SECRET, b64, common_verifier, forged, refusal, settings, verifier

NOW = 1_800_000_000.0


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


def test_a_token_is_good_from_nbf_until_just_before_exp() -> None:
    assert read_claims({"exp": NOW + 0.001, "nbf": NOW}, NOW).expires_at == NOW + 0.001
    with pytest.raises(Unauthorized, match="expired"):
        read_claims({"exp": NOW}, NOW)


def test_roles_are_a_list_or_one_string_divided_by_spaces() -> None:
    assert read_claims({"roles": ["a b", "c"]}, NOW).roles == ("a b", "c")
    assert read_claims({"roles": " a  b "}, NOW).roles == ("a", "b")
    assert read_claims({"roles": ""}, NOW).roles == ()
    keycloak = {"realm_access": {"roles": ["sales"]}, "roles": ["other"], "https://a.b/roles": ["ops"], "groups": "x y"}
    for claim, roles in (
        ("realm_access.roles", ("sales",)),
        ("https://a.b/roles", ("ops",)),
        ("groups", ("x", "y")),
        ("realm_access.none", ()),
        ("groups.roles", ()),
        ("none.at.all", ()),
    ):
        assert read_claims(keycloak, NOW, claim).roles == roles
    with pytest.raises(Unauthorized, match="realm_access must be a list of strings"):
        read_claims(keycloak, NOW, "realm_access")


def test_a_subject_may_have_256_bytes() -> None:
    assert read_claims({"sub": "ü" * (MAX_SUBJECT_BYTES // 2)}, NOW).subject == "ü" * 128


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
def test_a_forged_or_broken_token_is_refused_and_not_quoted(token: str) -> None:
    refusal(token, verifier())


def test_a_signed_text_that_is_not_a_json_object_is_refused() -> None:
    for payload in (b"[]", b"1", b"{", b"\xff", b'"' + b"[" * 5000, b"[" * 5000):
        refusal(jwt.PyJWS().encode(payload, SECRET, algorithm="HS256"), verifier())


@given(st.text(max_size=60) | st.text("abcdeyJ0._-=", max_size=60))
def test_any_text_that_is_not_a_token_is_refused_as_unauthorized(token: str) -> None:
    with pytest.raises(Unauthorized):
        common_verifier().verify(token)


@given(
    st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk"]), st.none() | st.text() | st.floats())
)
def test_a_forged_token_is_refused_as_unauthorized_whatever_its_header_holds(header: dict[str, object]) -> None:
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


def test_there_is_no_verifier_without_a_secret_or_a_key_set() -> None:
    assert Verifier.from_settings(settings()) is None
    assert Verifier.from_settings(settings(auth="none")) is None


@pytest.mark.parametrize("secret", ["", "\udcff" * 40, "-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----"])
def test_an_unusable_secret_is_refused_at_start(secret: str) -> None:
    with pytest.raises(SettingsInvalid, match="POLLCAST_AUTH_SECRET"):
        verifier(auth_secret=secret)


def test_signing_raises_value_error_for_a_bad_secret_or_claim() -> None:
    with pytest.raises(ValueError, match=r"."):
        sign("", {})
    with pytest.raises(ValueError, match=r"."):
        sign(SECRET, {"x": object()})


# --- where a client puts a token ------------------------------------------------------------------------------------


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
def test_subprotocols_without_a_readable_token_give_none(subprotocols: list[str]) -> None:
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
def test_the_authorization_header_gives_a_bearer_token_only(header: str | None, token: str | None) -> None:
    assert from_header(header) == token
