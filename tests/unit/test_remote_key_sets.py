"""A key set at a URL: when it is fetched, and what a URL that does not answer changes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from jwt.algorithms import OKPAlgorithm
from structlog.testing import capture_logs

from pollcast.services.auth.remote_keyset import MAX_BYTES, REFRESH_SECONDS, RETRY_SECONDS, RemoteKeySet, fetch_text
from pollcast.services.auth.tokens import Verifier
from pollcast.services.errors import Unauthorized
from tests.support.waiting import eventually_sync

KEYS = {name: ed25519.Ed25519PrivateKey.generate() for name in ("old", "new")}


def key_set(*names: str) -> str:
    """Return a JWK set of these keys."""
    keys = [{**OKPAlgorithm.to_jwk(KEYS[name].public_key(), as_dict=True), "kid": name} for name in names]
    return json.dumps({"keys": keys})


def signed(name: str) -> str:
    """Return a token signed with the key of this name."""
    return jwt.encode({"sub": name}, KEYS[name], algorithm="EdDSA", headers={"kid": name})


class Issuer:
    """An issuer of tokens: what its URL answers, how often it was asked, and the time."""

    def __init__(self) -> None:
        self.text = key_set("old")
        self.fetches = 0
        self.now = 0.0
        self.answers = threading.Event()
        self.answers.set()

    def fetch(self, url: str) -> str:
        """Answer once `answers` is set. Raises OSError while there is no text."""
        assert url == "https://id.test/keys"
        self.fetches += 1
        assert self.answers.wait(20)
        if not self.text:
            raise ConnectionRefusedError("refused")
        return self.text


def verifies(verifier: Verifier, name: str) -> bool:
    """Return whether the verifier accepts a token of this key now."""
    try:
        return verifier.verify(signed(name)).subject == name
    except Unauthorized:
        return False


def test_a_new_key_is_fetched_when_a_token_names_it_and_at_most_once_in_ten_seconds() -> None:
    issuer = Issuer()
    keys = RemoteKeySet("https://id.test/keys", issuer.fetch, lambda: issuer.now)
    keys.start()
    verifier = Verifier(keys)
    assert verifies(verifier, "old")
    issuer.text = key_set("old", "new")
    issuer.now += RETRY_SECONDS - 0.1
    for _ in range(100):
        assert not verifies(verifier, "new")
    assert issuer.fetches == 1
    issuer.now += 0.1
    issuer.answers.clear()
    for _ in range(100):  # while it is being fetched, nobody waits
        assert not verifies(verifier, "new")
        assert verifies(verifier, "old")
    issuer.answers.set()
    eventually_sync(lambda: verifies(verifier, "new"))
    assert issuer.fetches == 2


def test_a_key_that_was_removed_is_forgotten_and_an_outage_changes_nothing() -> None:
    issuer = Issuer()
    issuer.text = key_set("old", "new")
    keys = RemoteKeySet("https://id.test/keys", issuer.fetch, lambda: issuer.now)
    keys.start()
    verifier = Verifier(keys)
    issuer.text = ""
    issuer.now += REFRESH_SECONDS
    assert verifies(verifier, "old")
    eventually_sync(lambda: issuer.fetches == 2)
    assert verifies(verifier, "old")
    issuer.text = key_set("new")
    issuer.now += RETRY_SECONDS
    eventually_sync(lambda: not verifies(verifier, "old"))
    assert verifies(verifier, "new")


def test_a_gateway_starts_without_its_issuer_and_fetches_the_keys_later() -> None:
    issuer = Issuer()
    issuer.text = ""
    with capture_logs() as logs:
        keys = RemoteKeySet("https://id.test/keys", issuer.fetch, lambda: issuer.now)
        keys.start()
    assert [line["detail"] for line in logs] == ["refused"]
    verifier = Verifier(keys)
    assert not verifies(verifier, "old")
    issuer.text = key_set("old")
    issuer.now += RETRY_SECONDS
    eventually_sync(lambda: verifies(verifier, "old"))


class Answers(BaseHTTPRequestHandler):
    """A web server with a key set, a redirect to another host without TLS, and a text without end."""

    def do_GET(self) -> None:
        """Answer by the path."""
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "http://id.test/keys")
            self.end_headers()
            return
        self.send_response(200 if self.path != "/gone" else 410)
        self.end_headers()
        text = b"x" * (MAX_BYTES + 1) if self.path == "/endless" else key_set("old").encode()
        self.wfile.write(b"\xff" if self.path == "/binary" else text)

    def log_message(self, format: str, *arguments: object) -> None:
        """Do nothing."""


@pytest.fixture
def site() -> Iterator[str]:
    """The address of such a web server."""
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_only_a_short_text_that_comes_securely_is_a_key_set(site: str) -> None:
    assert fetch_text(f"{site}/keys") == key_set("old")
    for path, words in (("away", "not fetched securely"), ("endless", "bytes"), ("binary", "utf-8"), ("gone", "410")):
        with pytest.raises((OSError, ValueError), match=words):
            fetch_text(f"{site}/{path}")
