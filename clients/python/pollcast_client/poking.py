"""Pokes: hints that a topic should be polled at once, over HTTP."""

from __future__ import annotations

import asyncio
import json
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import quote, urlsplit

from pollcast_client import phoenix
from pollcast_client.errors import Refused
from pollcast_client.tokens import TokenSource, token_of

DEFAULT_URL = "http://127.0.0.1:4000"
"""The address of the first gateway of `pollcast up`."""

TIMEOUT_SECONDS = 10.0
"""Time that the gateway has to answer, in seconds."""


async def poke(
    topic: str, *, url: str = DEFAULT_URL, token: TokenSource | None = None, timeout: float = TIMEOUT_SECONDS
) -> int:
    """Have a topic polled at once, because something changed; return the number of topics that are polled for it.

    The name of a query alone means all its topics that somebody watches. Where tokens are required, the token needs a
    role that may poke. Raises Refused when the gateway refuses the poke, and OSError when it does not answer.
    """
    return await asyncio.to_thread(send, topic, url, await token_of(token), timeout)


def send(topic: str, url: str, token: str | None, timeout: float) -> int:
    """Send a poke, as `poke` does, without an event loop."""
    parts = urlsplit(phoenix.socket_url(url))
    kind = HTTPSConnection if parts.scheme == "wss" else HTTPConnection
    connection = kind(parts.netloc.rpartition("@")[2], timeout=timeout)
    try:
        path = parts.path.removesuffix("/socket/websocket") + poke_path(topic)
        connection.request("POST", path, headers={} if token is None else {"Authorization": f"Bearer {token}"})
        response = connection.getresponse()
        status, body = response.status, response.read()
    except HTTPException as error:
        raise ConnectionError(f"the gateway's answer is no HTTP: {error}") from None
    finally:
        connection.close()
    try:
        answer = json.loads(body)
        if status == 202:
            return int(answer["topics"])
        reason, detail = str(answer["reason"]), str(answer["detail"])
    except (ValueError, TypeError, KeyError):
        raise ConnectionError(f"the gateway answered {status}") from None
    raise Refused(reason, detail, topic)


def poke_path(topic: str) -> str:
    """Return the path and query of a poke: `live:orders?region=north` → `/poke/orders?region=north`."""
    query, mark, parameters = topic.removeprefix("live:").partition("?")
    return f"/poke/{quote(query, safe='')}{mark}{quote(parameters, safe=_UNCHANGED)}"


_UNCHANGED = "%&=+-._~!$'()*,;:@/?"  # what a topic has already encoded stays as it is
