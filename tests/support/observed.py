"""Comparison of an observation on a cluster with an example of the manual.

`masked` replaces everything that differs from one cluster, or moment, to another; what is left must be equal.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import grpc.aio
from google.protobuf import json_format
from google.protobuf.message import Message as ProtoMessage

from tests.support.manual import Example

P = TypeVar("P", bound=ProtoMessage)

VARYING = {
    re.compile(r"\d+-\d+"): "<version>",
    re.compile(r'"\d+-\d+"'): "<entity tag>",
    re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"): "<time>",
    re.compile(r"127\.0\.0\.1:\d+"): "<address>",
    re.compile(r"\d+\.\d+\.\d+"): "<release>",
    re.compile(r"(gateway|poller|coordinator)-\d+"): "<node>",
    re.compile(r"\d+"): "<int64>",
}
"""Texts that differ from one cluster to another, as a whole, with what stands for them."""

COUNTS = {"topics", "shown", "total"}
"""Names of integers that depend on the moment."""

FREE = {"phx_ref", "token", "detail", "catalogue"}
"""Names of texts that are random, for people, or hashes."""


class Observed:
    """Messages of a cluster by the name of the example that each is compared with."""

    def __init__(self, examples: Mapping[str, Example]) -> None:
        self.examples = examples
        self.messages: dict[str, Any] = {}

    def note(self, name: str, message: Any) -> None:
        """Keep a message, that of a protobuf as proto3 JSON. Raises AssertionError for a name without an example."""
        assert name in self.examples, f"the manual has no example {name}"
        self.messages[name] = json_format.MessageToDict(message) if isinstance(message, ProtoMessage) else message

    def note_error(self, name: str, error: grpc.aio.AioRpcError) -> None:
        """Keep the error that a gRPC call ended with."""
        self.note(name, {"code": error.code().name, "message": error.details()})

    def example(self, name: str, **changes: str) -> list[Any]:
        """Return a client's message as the manual shows it, with these fields of its payload changed."""
        message: list[Any] = self.examples[name].json()
        if changes:
            message[4] = message[4] | changes
        self.note(name, message)
        return message

    def request(self, name: str, kind: Callable[[], P]) -> P:
        """Return a request as the manual shows it. Raises ParseError when the message has no such field."""
        request = json_format.ParseDict(self.examples[name].json(), kind())
        self.note(name, request)
        return request


def masked(value: Any, name: str = "") -> Any:
    """Return the value with everything replaced that may differ from the manual's example."""
    if isinstance(value, dict):
        found = {key: masked(each, key) for key, each in value.items()}
        if "state" in found and isinstance(found.get("reason"), str):
            found["reason"] = "<reason>"  # of a status: for people, and its wording may change
        return found
    if isinstance(value, list):
        return [masked(each) for each in value]
    if isinstance(value, str):
        return _masked_text(value, name)
    if isinstance(value, float) or (name in COUNTS and isinstance(value, int)):
        return f"<{type(value).__name__}>"
    return value


def _masked_text(text: str, name: str) -> Any:
    if name in FREE:
        return f"<{name}>"
    if name == "message":  # of a gRPC error: `<reason>: <detail>`
        return re.sub(r"(\w+): .*", r"\1: <detail>", text, flags=re.DOTALL)
    for pattern, mask in VARYING.items():
        if pattern.fullmatch(text):
            return mask
    with contextlib.suppress(ValueError):  # bytes in proto3 JSON, which hold JSON here
        decoded = json.loads(base64.b64decode(text, validate=True))
        if isinstance(decoded, dict | list):
            return {"<bytes>": masked(decoded)}
    return text


def events(stream: str) -> list[dict[str, Any]]:
    """Return the comments and the events of an event stream, each as an object of its fields; a comment's name is
    empty."""
    found = []
    for block in filter(None, stream.split("\n\n")):
        fields: dict[str, Any] = dict(line.split(": ", 1) for line in block.splitlines())
        if "data" in fields:
            fields["data"] = json.loads(fields["data"])
        found.append(fields)
    return found
