"""Watching topics over one connection, which is made again whenever it is lost.

Everything happens while the consumer asks for the next change: there is no task in the background and no queue. A
consumer that takes long holds up the connection, and the gateway then sends it the present result instead of every
step; beyond a minute the gateway closes it, and it is resumed when the consumer comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from pollcast_client import phoenix
from pollcast_client.change import Change
from pollcast_client.channel import Channel
from pollcast_client.errors import Refused
from pollcast_client.event import Connected, Disconnected, Event
from pollcast_client.result import Result

Token = str | Callable[[], Awaitable[str]]
"""A token, or what gets a fresh one for every connection."""

Url = str | Sequence[str] | Callable[[], Awaitable[str]]
"""A gateway's address, several gateways' of which the next is taken when a connection is lost, or what finds one for
every connection."""

DEFAULT_URL = "http://127.0.0.1:4000"

HEARTBEAT_SECONDS = 20.0
ANSWER_PART = 0.5
"""A gateway that leaves a heartbeat, or a new connection, without an answer for this part of its time is dead."""

CLOSE_SECONDS = 1.0
"""A gateway that is dead does not confirm that a connection is closed: it is not waited for longer."""

REJOIN_SECONDS = 1.0
FIRST_BACKOFF_SECONDS = 0.1
LAST_BACKOFF_SECONDS = 5.0

TOKEN_EXPIRED = 4001
OUR_FAULT = {1003, 1007, 1009}
"""Close codes after which the same would happen again."""


class _Dead(Exception):
    """The gateway does not answer."""


class Watch:
    """Iterate over it for the changes of its topics: `async for change in watching`. Only one may iterate at a time;
    `join`, `leave`, `set_meta` and `renew` may be called meanwhile, from wherever, and return when the message is
    sent: when the gateway refuses it, the iteration raises Refused."""

    def __init__(
        self,
        *topics: str,
        url: Url = DEFAULT_URL,
        token: Token | None = None,
        deltas: bool = True,
        presence: dict[str, Any] | None = None,
        heartbeat: float = HEARTBEAT_SECONDS,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self._find = url if callable(url) else _each_in_turn([url] if isinstance(url, str) else list(url))
        self._token = token
        self._deltas = deltas
        self._heartbeat = heartbeat
        self._on_event = on_event
        self._channels = {each: Channel(each, deltas=deltas, presence=presence) for each in topics}
        self._socket: ClientConnection | None = None
        self._closed = False
        self._ref = 0
        self._failures = 0

    # --- steering ---------------------------------------------------------------------------------------------

    async def join(self, topic: str, *, presence: dict[str, Any] | None = None, known: Result | None = None) -> None:
        """Watches one more topic. `known` is a result that was seen before (`change.result`), by this watch or by
        another: then only what is missing comes, as far as the gateway still has it."""
        channel = self._channels[topic] = Channel(topic, deltas=self._deltas, presence=presence, known=known)
        await self._send_if_open(channel.join(self._next_ref()))

    async def leave(self, topic: str) -> None:
        """KeyError when it is not watched."""
        channel = self._channels.pop(topic)
        await self._send_if_open(channel.push(self._next_ref(), "phx_leave", {}))

    async def set_meta(self, topic: str, meta: dict[str, Any]) -> None:
        """Says something else about oneself on a topic that was joined with a presence."""
        channel = self._channels[topic]
        channel.meta = (channel.meta or {}) | {"meta": meta}
        if channel.state != "away":
            await self._send_if_open(channel.push(self._next_ref(), "presence", {"meta": meta}))

    async def renew(self, token: str) -> None:
        """Gives the connection a new token before the old one expires. RuntimeError when no topic is joined."""
        if not callable(self._token):
            self._token = token
        joined = next((each for each in self._channels.values() if each.state == "joined"), None)
        if joined is None:
            raise RuntimeError("a token is renewed on a joined topic, and none is joined now")
        await self._send_if_open(joined.push(self._next_ref(), "access_token", {"token": token}))

    async def close(self) -> None:
        """Ends the iteration, and the connection with it."""
        self._closed = True
        if self._socket is not None:
            await self._socket.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.close()

    # --- the changes ------------------------------------------------------------------------------------------

    async def __aiter__(self) -> AsyncGenerator[Change, None]:
        self._failures = 0
        while not self._closed:
            url = phoenix.socket_url(await self._find())
            code: int | None = None
            try:
                async with connect(url, **await self._options()) as socket:
                    self._socket = socket
                    self._say(Connected(url))
                    async with contextlib.aclosing(self._conversation(socket)) as changes:
                        async for change in changes:
                            yield change
            except InvalidStatus as error:
                if error.response.status_code in (401, 403):
                    raise Refused("unauthorized", _denial(error)) from None
                why = f"the gateway answered {error.response.status_code}"
            except ConnectionClosed as error:
                code, reason = (error.rcvd.code, error.rcvd.reason) if error.rcvd else (None, "")
                if code in OUR_FAULT or (code == TOKEN_EXPIRED and not callable(self._token)):
                    raise Refused("unauthorized" if code == TOKEN_EXPIRED else "invalid_message", reason) from None
                why = f"the connection was closed: {code or 1006} {reason}".strip()
            except (OSError, TimeoutError, InvalidHandshake, EOFError, _Dead) as error:
                why = f"not connected: {error or type(error).__name__}"
            finally:
                self._socket = None
            if self._closed:
                return
            self._say(Disconnected(url, why, code))
            for channel in list(self._channels.values()):
                for change in channel.lost(why, datetime.now(UTC).isoformat().replace("+00:00", "Z")):
                    yield change
            await asyncio.sleep(_backoff(self._failures))
            self._failures += 1

    async def _conversation(self, socket: ClientConnection) -> AsyncGenerator[Change, None]:
        """Until the connection ends, which raises."""
        for channel in list(self._channels.values()):
            if self._channels.get(channel.topic) is channel:  # it may be left meanwhile
                await socket.send(channel.join(self._next_ref()).encode())
        heartbeat, unanswered = time.monotonic() + self._heartbeat, False
        while True:
            rejoin = any(channel.rejoin for channel in self._channels.values())
            patience = (
                REJOIN_SECONDS if rejoin or unanswered else 0.0
            )  # what came while the consumer was away comes first
            try:
                async with asyncio.timeout(patience if rejoin else max(patience, heartbeat - time.monotonic())):
                    text = await socket.recv()
            except TimeoutError:
                for channel in [each for each in self._channels.values() if each.rejoin]:
                    await socket.send(channel.join(self._next_ref()).encode())
                if time.monotonic() < heartbeat:
                    continue
                if unanswered:
                    raise _Dead("the gateway does not answer") from None
                message = phoenix.Message(None, self._next_ref(), "phoenix", "heartbeat", {})
                await socket.send(message.encode())
                heartbeat, unanswered = time.monotonic() + self._heartbeat * ANSWER_PART, True
                continue
            message = phoenix.decode(text)
            if message.topic == "phoenix":
                heartbeat, unanswered = time.monotonic() + self._heartbeat, False
                continue
            spoken_to = self._channels.get(message.topic)
            if spoken_to is None:
                continue
            told = spoken_to.tells(message)
            if told is not None:
                self._say(told)
            for change in spoken_to.take(message):
                yield change
            if spoken_to.state == "joined":
                self._failures = 0

    # --- inside -----------------------------------------------------------------------------------------------

    async def _options(self) -> dict[str, Any]:
        token = await self._token() if callable(self._token) else self._token
        return {
            "subprotocols": [Subprotocol(each) for each in phoenix.subprotocols(token)],
            "open_timeout": self._heartbeat * ANSWER_PART,
            "close_timeout": CLOSE_SECONDS,
            "ping_interval": None,  # heartbeats do that
            "compression": None,
            "max_size": None,
        }

    def _say(self, event: Event) -> None:
        if self._on_event is not None:
            self._on_event(event)

    def _next_ref(self) -> str:
        self._ref += 1
        return str(self._ref)

    async def _send_if_open(self, message: phoenix.Message) -> None:
        """A connection that is gone is noticed by the iteration, and everything is joined again on the next."""
        if self._socket is not None:
            with contextlib.suppress(ConnectionClosed):
                await self._socket.send(message.encode())


def watch(
    *topics: str,
    url: Url = DEFAULT_URL,
    token: Token | None = None,
    deltas: bool = True,
    presence: dict[str, Any] | None = None,
    heartbeat: float = HEARTBEAT_SECONDS,
    on_event: Callable[[Event], None] | None = None,
) -> Watch:
    """`async for change in watch("live:orders?region=north", url="http://127.0.0.1:4000"): …`

    `url` is a gateway's, or several gateways', of which the next is taken when a connection is lost, or an async
    function that finds one for each connection. `deltas=False` makes every change a snapshot. `presence` is
    `{"key": "alice", "meta": {…}}`, for queries that have it. `heartbeat`, in seconds, says how soon a silent
    connection is called dead: after one and a half times as much. `on_event` is told what happens beneath the changes,
    as it happens; what it raises ends the iteration, and so does what a `url` or `token` function raises. Raises
    Refused for what the gateway does not allow; that it is not there is told as the status `stale`.
    """
    return Watch(
        *topics, url=url, token=token, deltas=deltas, presence=presence, heartbeat=heartbeat, on_event=on_event
    )


def _each_in_turn(urls: Sequence[str]) -> Callable[[], Awaitable[str]]:
    """ValueError when one is none, or there is none."""
    if not urls:
        raise ValueError("needs the url of a gateway")
    turns = itertools.cycle([phoenix.socket_url(url) for url in urls])
    for _ in range(random.randrange(len(urls))):  # not everyone begins at the first
        next(turns)

    async def find() -> str:
        return next(turns)

    return find


def _backoff(failures: int) -> float:
    """Seconds, with jitter: up to twice as much each time."""
    ceiling = min(LAST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(failures, 10))
    return ceiling * (0.5 + random.random() / 2)


def _denial(error: InvalidStatus) -> str:
    body = error.response.body or b""
    return bytes(body).decode(errors="replace")[:500] or f"the gateway answered {error.response.status_code}"
