"""Phoenix Channels' V2 JSON serializer: messages to text and back (docs/reference/channels.md#messages). Pure.

A message is `[join_ref, ref, topic, event, payload]`. Outgoing payloads are JSON already: they are put together here,
and not encoded again.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple, NoReturn

import orjson

from pollcast.services.compact import compact

VSN = "2.0.0"
"""The version of the serializer, which clients send as `vsn`."""

Ref = str | int | None
"""A `ref` or `join_ref`, which goes back to the client as it came."""

UNREADABLE: Final = object()
"""The payload of a message whose payload holds half of a surrogate pair, which orjson cannot write."""


class Malformed(Exception):
    """The text is not a message of the V2 JSON serializer, for the reason given. It closes the socket with 1007."""


class Message(NamedTuple):
    """A message from a client."""

    join_ref: Ref
    ref: Ref
    topic: str
    event: str
    payload: Any


def decode(text: bytes | bytearray | memoryview) -> Message:
    """Return the message that a text holds. Raises Malformed."""
    try:
        parts = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        parts = _with_surrogates(bytes(text))
        if parts is None:
            raise Malformed(f"not JSON: {str(error)[:60]}") from None
    if type(parts) is not list or len(parts) != 5:
        raise Malformed("not an array of [join_ref, ref, topic, event, payload]")
    join_ref, ref, topic, event, payload = parts
    for name, value in (("join_ref", join_ref), ("ref", ref)):
        if value is not None and type(value) not in (str, int):
            raise Malformed(f"{name} must be a string or null")
    if type(topic) is not str or type(event) is not str:
        raise Malformed("topic and event must be strings")
    return Message(join_ref, ref, topic, event, payload)


def encode(join_ref: Ref, ref: Ref, topic: bytes, event: bytes, payload: bytes) -> bytes:
    """Return a message as text. `topic` is a JSON string (see `quote`), `event` a plain word, `payload` JSON."""
    return b"%b%b]" % (head(join_ref, ref, topic, event), payload)


def head(join_ref: Ref, ref: Ref, topic: bytes, event: bytes) -> bytes:
    """Return the beginning of a message, which its payload and a closing bracket follow."""
    return b'[%b,%b,%b,"%b",' % (_json(join_ref), _json(ref), topic, event)


def push(topic: bytes, event: bytes, payload: bytes) -> bytes:
    """Return a push as text. It has no refs, so that one encoding serves every client on this spelling of the topic."""
    return b'[null,null,%b,"%b",%b]' % (topic, event, payload)


def push_head(topic: bytes, event: bytes) -> bytes:
    """Return the beginning of a push, which its payload and a closing bracket follow."""
    return b'[null,null,%b,"%b",' % (topic, event)


def quote(topic: str) -> bytes:
    """Return a topic as a JSON string, quotes included."""
    return compact(_json(topic))


def _json(value: str | int | None) -> bytes:
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:  # half of a surrogate pair, which goes back as it came
        return json.dumps(value).encode()


def _with_surrogates(text: bytes) -> Any:
    """Parse a text that holds half of a surrogate pair; return None when it is not JSON.

    JavaScript writes half of a surrogate pair as an escape, which orjson refuses. It is an error of the topic or of the
    payload (which becomes UNREADABLE), and not of the message. So the standard library parses such a text.
    """
    if b"\\ud" not in text.lower():
        return None
    try:
        parts = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    if isinstance(parts, list) and len(parts) == 5:
        try:
            orjson.dumps(parts[4])
        except orjson.JSONEncodeError:
            parts[4] = UNREADABLE
    return parts


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def reply(message: Message, topic: bytes, status: bytes, response: bytes = b"{}") -> bytes:
    """Return the `phx_reply` to a message; `status` is `ok` or `error`, `response` is JSON."""
    payload = b'{"status":"%b","response":%b}' % (status, response)
    return encode(message.join_ref, message.ref, topic, b"phx_reply", payload)


def reply_error(message: Message, topic: bytes, reason: str, detail: str) -> bytes:
    """Return the `phx_reply` that reports an error (docs/reference/channels.md#errors)."""
    return reply(message, topic, b"error", orjson.dumps({"reason": reason, "detail": detail}))


def close(join_ref: Ref, topic: bytes) -> bytes:
    """Return the `phx_close` of the channel with this join_ref."""
    return encode(join_ref, join_ref, topic, b"phx_close", b"{}")
