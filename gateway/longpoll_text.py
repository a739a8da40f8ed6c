"""Phoenix's LongPoll transport as text: tokens, bodies and answers (docs/reference/channels.md#long-polling). Pure.

A session is known by its token, which names the process that holds it and cannot be guessed.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

import orjson

SESSION_HEADER: Final = "x-phoenix-longpoll-token"
"""The header in which newer clients send a session's token; others send it as the last `token` in the query."""

AUTH_HEADER: Final = "x-phoenix-authtoken"
"""The header in which phoenix.js sends its `authToken`."""

SECRET_BYTES: Final = 24
"""Number of random bytes in a session's token."""

_TOKEN: Final = re.compile(r"lp\.([0-9a-f]{16})\.[A-Za-z0-9_-]{32}")
_TEXT: Final = 0x81


def owner_name(node: str) -> str:
    """Return the name by which tokens refer to a node: it tells nothing about the node, and is safe in a path."""
    return hashlib.sha256(node.encode()).hexdigest()[:16]


def new_token(owner: str) -> str:
    """Return the token of a new session of the process with this `owner_name`."""
    return f"lp.{owner}.{secrets.token_urlsafe(SECRET_BYTES)}"


def owner_of(token: str) -> str | None:
    """Return the name of the process that holds the session, or None when the token is no session's."""
    match = _TOKEN.fullmatch(token)
    return None if match is None else match[1]


class Credentials(NamedTuple):
    """The parts of a request that say who sends it: `session` is the token of a session, `auth` that of a user."""

    vsn: str | None
    session: str | None
    auth: str | None

    @classmethod
    def read(cls, query: bytes, headers: Mapping[str, str]) -> Credentials:
        """Return the credentials of a request; the names of the headers are in lower case.

        In the query, `token` may be both: phoenix.js 1.7 sends a user's, and then the session's after it.
        """
        vsn, session, auth = None, headers.get(SESSION_HEADER), headers.get(AUTH_HEADER)
        for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
            if name == "vsn":
                vsn = value
            elif name == "token" and owner_of(value) is not None:
                session = session if SESSION_HEADER in headers else value
            elif name == "token" and value and AUTH_HEADER not in headers:
                auth = value
        return cls(vsn, session, auth)


class Batch:
    """The messages of a POST whose body comes in pieces.

    With `lines`, each line that is not empty is a message. A message of more than `most` bytes is cut off one byte
    after that, and is the last one.
    """

    def __init__(self, most: int, *, lines: bool) -> None:
        self._most = most
        self._lines = lines
        self._rest = b""
        self._over = False

    def take(self, piece: bytes) -> Iterator[bytes]:
        """Yield the messages that are complete with this piece."""
        if self._over:
            return
        *whole, self._rest = (self._rest + piece).split(b"\n") if self._lines else (self._rest + piece,)
        for message in filter(None, whole):  # empty lines cost next to nothing, whoever sends a million of them
            if len(message) > self._most:
                self._rest = message
                break
            yield message
        if len(self._rest) > self._most:
            self._over = True
            yield self._rest[: self._most + 1]

    def end(self) -> Iterator[bytes]:
        """Yield the last message, which no line break ends."""
        if not self._over and self._rest:
            yield self._rest


def texts(frames: bytes) -> Iterator[bytes]:
    """Yield the texts in plain frames as `outbound_frames.frame` makes them."""
    at = 0
    while at < len(frames):
        assert frames[at] == _TEXT, "only plain text frames are written to a session of long polling"
        size, at = frames[at + 1], at + 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size, at = int.from_bytes(frames[at : at + width]), at + width
        yield frames[at : at + size]
        at += size


def messages_body(token: str, frames: Iterable[bytes]) -> bytes:
    """Return the answer to a poll: the messages in these frames, each as a JSON string."""
    strings = [orjson.dumps(text.decode(errors="replace")) for each in frames for text in texts(each)]
    return b'{"status":200,"token":"%b","messages":[%b]}' % (token.encode(), b",".join(strings))


def status_body(status: int, token: str | None = None) -> bytes:
    """Return an answer without messages."""
    return orjson.dumps({"status": status} if token is None else {"status": status, "token": token, "messages": []})
