"""One GET over HTTP, with a deadline, straight to the address: without a proxy, whatever the environment says."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from pollcast.services.process.addresses import HostPort, join_host_port, split_host_port

MAX_BYTES = 8 * 1024 * 1024
"""Maximum size of an answer, in bytes."""


@dataclass(frozen=True)
class Answer:
    """An answer to a GET. `clock_offset` is the least time in seconds by which the server's clock can differ from this
    machine's, positive when it is ahead; None when the answer had no date."""

    status: int
    body: bytes
    clock_offset: float | None


async def get(address: HostPort, path: str, seconds: float, tls: ssl.SSLContext | None = None) -> Answer:
    """Return the answer to a GET. Raises OSError, TimeoutError included, or ValueError when there is none in time."""
    host, port = split_host_port(address)
    async with asyncio.timeout(seconds):
        reader, writer = await asyncio.open_connection(host, port, ssl=tls)
        try:
            began = time.time()
            request = f"GET {path} HTTP/1.0\r\nHost: {join_host_port(host, port)}\r\nAccept: */*\r\n\r\n"
            writer.write(request.encode())
            answer = await _read(reader)
            ended = time.time()
        finally:
            writer.close()
    if not answer:
        raise ConnectionResetError("it closes the connection without an answer")
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if not words[0].startswith("HTTP/") or len(words) < 2 or not words[1].isdecimal():
        raise ValueError("it does not speak HTTP")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return Answer(int(words[1]), body, _offset(headers, began, ended))


async def _read(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := await reader.read(65536):
        parts.append(part)
        size += len(part)
        if size > MAX_BYTES:
            raise ValueError(f"its answer has more than {MAX_BYTES} bytes")
    return b"".join(parts)


def _offset(headers: Mapping[str, str], began: float, ended: float) -> float | None:
    """Return the least difference of the clocks that the header `Date`, which has whole seconds, allows."""
    try:
        date = parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, ValueError):
        return None
    return least_offset(date, began, ended)


def least_offset(date: float, began: float, ended: float) -> float:
    """Return the least offset of a clock that showed the second `date` at a moment between `began` and `ended`."""
    least, most = date - ended, date + 1 - began
    return least if least > 0 else min(most, 0.0)


def in_words(error: BaseException) -> str:
    """Return why something did not answer."""
    if isinstance(error, TimeoutError):
        return "it does not answer"
    if isinstance(error, ConnectionRefusedError):
        return "it refuses connections"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return "it speaks no TLS" if error.reason in NO_TLS else f"TLS fails: {error.reason or error}"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)


NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")
"""OpenSSL's words for the answer of a server without TLS."""
