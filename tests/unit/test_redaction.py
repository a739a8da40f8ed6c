"""Redaction: tokens, passwords and values of claims do not reach a log."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.services.process.redaction import Redaction

REDACTION = Redaction({"mine": frozenset({"tenant"}), "open": frozenset()})


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("mine?least=1&tenant=acme", "mine?least=1&tenant=…"),
        ("/pollcast/demand/mine?tenant=a%2Fb/gateway-1", "/pollcast/demand/mine?tenant=…/gateway-1"),
        ("'open?a=1' is not canonical", "'open?a=1' is not canonical"),
        ("unknown?a=1", "unknown?a=…"),
        ("GET /x?vsn=2.0.0&token=abc HTTP/1.1", "GET /x?vsn=…&token=… HTTP/1.1"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln", "…"),
        ("phoenix, base64url.bearer.phx.ZXlK", "phoenix, base64url.bearer.phx.…"),
        ("Authorization: Bearer abc.def-1", "Authorization: Bearer …"),
        ("postgresql://me:hunter2@db:5432/shop", "postgresql://me:…@db:5432/shop"),
        ("host=db password=hunter2 user=me", "host=db password=… user=me"),
        ("nothing of that kind, 12:30, a?b", "nothing of that kind, 12:30, a?b"),
    ],
)
def test_secrets_are_hidden_in_texts_and_in_containers_of_texts(text: str, hidden: str) -> None:
    assert REDACTION.text(text) == hidden
    assert REDACTION.value({"a": [text, 1, None]}) == {"a": [hidden, 1, None]}


@pytest.mark.parametrize(
    "repeated", ["eyJ-", "eyJ", "a?b=eyJ-&", "://a:", "://", "token=", "bearer ", "a?b=c", "base64url.bearer.phx.", "a"]
)
def test_a_text_is_redacted_in_linear_time(repeated: str) -> None:
    started = time.process_time()
    REDACTION.text(repeated * (100_000 // len(repeated)))
    assert time.process_time() - started < 2  # quadratic: a minute


PIECES = st.sampled_from(["eyJ", "x", ".", "-", " ", "://", ":", "@", "/", "secret", "eyJh.b"])


@given(st.lists(PIECES, max_size=30).map("".join))
def test_tokens_and_passwords_are_hidden_wherever_they_stand(text: str) -> None:
    expected = re.sub(r"\beyJ[\w-]*\.[\w.-]*", "…", text)
    expected = re.sub(r"(://[^\s:/@]*:)[^\s@]+@", r"\1…@", expected)
    assert REDACTION.text(text) == expected
