"""Phoenix Channels, V2 JSON serializer: messages ⇄ text. Pure (CONTRACT.md §4).

A message is `[join_ref, ref, topic, event, payload]`. Outgoing payloads are JSON already: they are put together, not
encoded again. Refs are echoed as they came.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple, NoReturn

import orjson

from pollcast.services.compact import compact

VSN = "2.0.0"

Ref = str | int | None

UNREADABLE: Final = object()
"""The payload of a message whose text is JSON, but holds half of a surrogate pair there."""


class Malformed(Exception):
    """The text is no message of the V2 JSON serializer; says why. The socket is closed with 1007."""


class Message(NamedTuple):
    join_ref: Ref
    ref: Ref
    topic: str
    event: str
    payload: Any


def decode(text: bytes | bytearray | memoryview) -> Message:
    """Raises Malformed."""
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
    """`topic` is a JSON string with its quotes (`quote`), `event` a plain word, `payload` JSON."""
    return b'[%b,%b,%b,"%b",%b]' % (_json(join_ref), _json(ref), topic, event, payload)


def push(topic: bytes, event: bytes, payload: bytes) -> bytes:
    """A server's push: without refs, so that one encoding serves every client on this spelling of the topic."""
    return b'[null,null,%b,"%b",%b]' % (topic, event, payload)


def quote(topic: str) -> bytes:
    """A topic as a JSON string."""
    return compact(_json(topic))


def _json(value: str | int | None) -> bytes:
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:  # a lone surrogate, which is echoed as it came
        return json.dumps(value).encode()


def _with_surrogates(text: bytes) -> Any:
    """JavaScript writes half a surrogate pair as an escape, which orjson refuses. In a topic that is an error of the
    topic or of the payload (which is UNREADABLE then), not of the message, so such text is read by the standard
    library. None when it is no JSON there either."""
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
    raise ValueError(f"{name} is no JSON")


def reply(message: Message, topic: bytes, status: bytes, response: bytes = b"{}") -> bytes:
    """`phx_reply` to a message; `status` is `ok` or `error`, `response` JSON."""
    payload = b'{"status":"%b","response":%b}' % (status, response)
    return encode(message.join_ref, message.ref, topic, b"phx_reply", payload)


def reply_error(message: Message, topic: bytes, reason: str, detail: str) -> bytes:
    return reply(message, topic, b"error", orjson.dumps({"reason": reason, "detail": detail}))


def close(join_ref: Ref, topic: bytes) -> bytes:
    """`phx_close`: the channel with this join_ref has ended."""
    return encode(join_ref, join_ref, topic, b"phx_close", b"{}")
