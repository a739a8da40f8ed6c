"""Encoding and decoding of Phoenix messages."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from pollcast.gateway import phoenix


def test_messages_are_encoded_as_phoenix_js_reads_them() -> None:
    message = phoenix.decode(b'["1","2","live:q","phx_join",{"since":null}]')
    assert tuple(message) == ("1", "2", "live:q", "phx_join", {"since": None})
    text = phoenix.reply(message, phoenix.quote(message.topic), b"ok", b'{"a":1}')
    assert orjson.loads(text) == ["1", "2", "live:q", "phx_reply", {"status": "ok", "response": {"a": 1}}]


def is_message_or_malformed(text: bytes) -> bool:
    """Return whether the text decodes to a message or is refused with a reason."""
    try:
        return isinstance(phoenix.decode(text).topic, str)
    except phoenix.Malformed as error:
        return bool(str(error))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_malformed(text: bytes) -> None:
    assert is_message_or_malformed(text)


@given(st.recursive(st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5), st.lists, max_leaves=8))
def test_any_json_is_a_message_or_malformed(value: Any) -> None:
    assert is_message_or_malformed(orjson.dumps(value))
