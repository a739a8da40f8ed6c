"""`watch`: topics over one WebSocket connection, which is opened again whenever it is lost.

A watch works only while its consumer awaits the next change: there is no background task and no queue. A consumer that
takes long between two changes stops reading the connection; the gateway then skips versions and sends the current
result. After a minute without a message from the client the gateway closes the connection, and the watch resumes on a
new one when its consumer continues.
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
from pollcast_client.conversation import ANSWER_PART, Conversation, Unresponsive
from pollcast_client.errors import Refused
from pollcast_client.event import Connected, Disconnected, Event
from pollcast_client.poking import DEFAULT_URL, TIMEOUT_SECONDS, poke
from pollcast_client.renewing import renewing
from pollcast_client.result import Result
from pollcast_client.tokens import TokenSource, token_of

Url = str | Sequence[str] | Callable[[], Awaitable[str]]
"""A gateway's address; or several, of which the watch tries the next after each lost connection; or an async function
that returns an address for each connection."""

HEARTBEAT_SECONDS = 20.0
"""Time between the answer to a heartbeat and the next heartbeat, in seconds."""

CLOSE_SECONDS = 1.0
"""Maximum wait for the gateway to confirm that a connection is closed, in seconds: a dead gateway never does."""

STABLE_SECONDS = 5.0
"""Time for which a connection has to last so that the next pause is a short one again, in seconds."""

FIRST_BACKOFF_SECONDS = 0.1
"""Maximum pause before the first attempt to connect again, in seconds; it doubles with each failure."""

LAST_BACKOFF_SECONDS = 5.0
"""Maximum pause between two attempts to connect, in seconds."""

TOKEN_EXPIRED = 4001
"""The close code for an expired token (docs/reference/channels.md#close-codes)."""

CLIENT_FAULT_CODES = {1003, 1007, 1009}
"""The close codes that blame a message of this client; sending it again would have the same effect."""


class Watch:
    """An asynchronous iterable of the changes of its topics: `async for change in watching`.

    Only one task may iterate at a time. Other tasks of the same event loop may call `join`, `leave`, `set_meta`,
    `renew`, `poke` and `close` meanwhile. But for `poke`, these return when the message is sent, and a refusal by the
    gateway is raised in the iteration, as Refused. See `watch` for the arguments.
    """

    def __init__(
        self,
        *topics: str,
        url: Url = DEFAULT_URL,
        token: TokenSource | None = None,
        deltas: bool = True,
        presence: dict[str, Any] | None = None,
        heartbeat: float = HEARTBEAT_SECONDS,
        parse_float: Callable[[str], Any] = float,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self._find = url if callable(url) else _in_turn([url] if isinstance(url, str) else list(url))
        self._token = token
        self._deltas = deltas
        self._heartbeat = heartbeat
        self._parse_float = parse_float
        self._on_event = on_event
        self._channels = {each: Channel(each, deltas=deltas, presence=presence) for each in topics}
        self._socket: ClientConnection | None = None
        self._url: str | None = None  # of the open connection
        self._closed = False
        self._ref = 0
        self._failures = 0

    # --- control ----------------------------------------------------------------------------------------------

    async def join(self, topic: str, *, presence: dict[str, Any] | None = None, known: Result | None = None) -> None:
        """Add a topic to the watch, with a presence of its own.

        `known` is an earlier result of the same topic (`change.result`), from this watch or another: the gateway then
        sends only the deltas since that version, as far as it still has them, instead of a snapshot.
        """
        channel = self._channels[topic] = Channel(topic, deltas=self._deltas, presence=presence, known=known)
        await self._send_if_open(channel.join(self._next_ref()))

    async def leave(self, topic: str) -> None:
        """Remove a topic from the watch. Raises KeyError when the watch does not have it."""
        channel = self._channels.pop(topic)
        await self._send_if_open(channel.push(self._next_ref(), "phx_leave", {}))

    async def set_meta(self, topic: str, meta: dict[str, Any]) -> None:
        """Replace the meta that other members of the topic see; the topic needs a presence. Raises KeyError when the
        watch does not have the topic."""
        channel = self._channels[topic]
        channel.meta = (channel.meta or {}) | {"meta": meta}
        if channel.state != "away":
            await self._send_if_open(channel.push(self._next_ref(), "presence", {"meta": meta}))

    async def renew(self, token: str) -> None:
        """Send a new token on the open connection, before the old one expires. Raises RuntimeError when no topic is
        joined at the moment."""
        if not callable(self._token):
            self._token = token
        if not await self._send_token(token):
            raise RuntimeError("a token is renewed on a joined topic, and none is joined now")

    async def poke(self, topic: str, timeout: float = TIMEOUT_SECONDS) -> int:
        """Have a topic polled at once, because something changed; see `poke`. It need not be one of this watch."""
        url = self._url or await self._find()
        return await poke(topic, url=url, token=self._token, timeout=timeout)

    async def close(self) -> None:
        """Close the connection and end the iteration."""
        self._closed = True
        if self._socket is not None:
            await self._socket.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.close()

    # --- iteration --------------------------------------------------------------------------------------------

    async def __aiter__(self) -> AsyncGenerator[Change, None]:
        self._failures = 0
        while not self._closed:
            url = phoenix.socket_url(await self._find())
            code: int | None = None
            began = time.monotonic()
            try:
                token = await token_of(self._token)
                async with (
                    connect(url, **self._options(token)) as socket,
                    renewing(self._token, token, self._send_token),
                ):
                    self._socket, self._url = socket, url
                    self._report(Connected(url))
                    async with contextlib.aclosing(self._conversation(socket)) as changes:
                        async for change in changes:
                            yield change
            except InvalidStatus as error:
                if error.response.status_code in (401, 403):
                    raise Refused("unauthorized", _denial(error)) from None
                why = f"the gateway answered {error.response.status_code}"
            except ConnectionClosed as error:
                code, reason = (error.rcvd.code, error.rcvd.reason) if error.rcvd else (None, "")
                if code in CLIENT_FAULT_CODES or (code == TOKEN_EXPIRED and not callable(self._token)):
                    raise Refused("unauthorized" if code == TOKEN_EXPIRED else "invalid_message", reason) from None
                why = f"the connection was closed: {code or 1006} {reason}".strip()
            except (OSError, TimeoutError, InvalidHandshake, EOFError, Unresponsive) as error:
                why = f"not connected: {error or type(error).__name__}"
            finally:
                self._socket = self._url = None
            if self._closed:
                return
            self._report(Disconnected(url, why, code))
            lasted = time.monotonic() - began > STABLE_SECONDS
            if lasted and any(channel.state == "joined" for channel in self._channels.values()):
                self._failures = 0
            for channel in list(self._channels.values()):
                for change in channel.disconnect(why, datetime.now(UTC).isoformat().replace("+00:00", "Z")):
                    yield change
            await asyncio.sleep(_backoff(self._failures))
            self._failures += 1

    async def _conversation(self, socket: ClientConnection) -> AsyncGenerator[Change, None]:
        """Join all topics and yield their changes until the connection ends, which raises."""
        clock = time.monotonic
        conversation = Conversation(self._channels, heartbeat=self._heartbeat, now=clock(), next_ref=self._next_ref)
        for message in conversation.joins():
            await socket.send(message.encode())
        while True:
            for message in conversation.due(clock()):
                await socket.send(message.encode())
            try:
                async with asyncio.timeout(conversation.wait(clock())):
                    text = await socket.recv()
            except TimeoutError:
                conversation.idle(clock())
                continue
            message = phoenix.decode(text, self._parse_float)
            addressed = conversation.heard(message)
            if addressed is None:
                continue
            event = addressed.event_of(message)
            if event is not None:
                self._report(event)
            for change in addressed.take(message):
                yield change
            conversation.after(addressed, clock())

    # --- internals --------------------------------------------------------------------------------------------

    def _options(self, token: str | None) -> dict[str, Any]:
        return {
            "subprotocols": [Subprotocol(each) for each in phoenix.subprotocols(token)],
            "open_timeout": self._heartbeat * ANSWER_PART,
            "close_timeout": CLOSE_SECONDS,
            "ping_interval": None,  # Phoenix heartbeats take their place
            "compression": None,
            "max_size": None,
        }

    def _report(self, event: Event) -> None:
        if self._on_event is not None:
            self._on_event(event)

    def _next_ref(self) -> str:
        self._ref += 1
        return str(self._ref)

    async def _send_token(self, token: str) -> bool:
        """Send a new token on a joined topic. Return False when none is joined."""
        joined = next((each for each in self._channels.values() if each.state == "joined"), None)
        if joined is not None:
            await self._send_if_open(joined.push(self._next_ref(), "access_token", {"token": token}))
        return joined is not None

    async def _send_if_open(self, message: phoenix.Message) -> None:
        """Send a message, or do nothing without a connection: the iteration joins all topics on the next one."""
        if self._socket is not None:
            with contextlib.suppress(ConnectionClosed):
                await self._socket.send(message.encode())


def watch(
    *topics: str,
    url: Url = DEFAULT_URL,
    token: TokenSource | None = None,
    deltas: bool = True,
    presence: dict[str, Any] | None = None,
    heartbeat: float = HEARTBEAT_SECONDS,
    parse_float: Callable[[str], Any] = float,
    on_event: Callable[[Event], None] | None = None,
) -> Watch:
    """Return the watch of these topics: `async for change in watch("live:orders?region=north"): …`

    `url` is the address of a gateway; or several addresses, of which the watch tries the next after each lost
    connection; or an async function that returns one for each connection. `token` is a token, or a function, async or
    not, that returns a fresh one: it is called for each connection, and some time before its last token expires. With
    `deltas=False` every change of a result arrives as a snapshot. `presence` is `{"key": "alice", "meta": {…}}`, for
    queries with presence: it makes the client a member of its topics. `heartbeat` is the time between heartbeats, in
    seconds; a silent connection is given up after one and a half times as long. `parse_float` is called with the text
    of each number that has a fraction or an exponent, as in `json.loads`: with `decimal.Decimal` rows have exact
    decimals. `on_event` is called with each event (`Connected`, `Disconnected`, `Joined`, `Pushed`) as it happens.

    An unreachable gateway is no exception: the topics' status becomes `stale` and the watch connects again. The
    iteration raises Refused when the gateway refuses the client, ProtocolViolated for a message that does not fit the
    protocol, and whatever `on_event` or the functions given as `url` and `token` raise, except for OSError and
    TimeoutError, which count as an unreachable gateway. Raises ValueError when `url` is
    not an address.
    """
    return Watch(
        *topics,
        url=url,
        token=token,
        deltas=deltas,
        presence=presence,
        heartbeat=heartbeat,
        parse_float=parse_float,
        on_event=on_event,
    )


def _in_turn(urls: Sequence[str]) -> Callable[[], Awaitable[str]]:
    """Return a function that returns the addresses in turn. Raises ValueError when there is none, or one is
    malformed."""
    if not urls:
        raise ValueError("the url of at least one gateway is needed")
    turns = itertools.cycle([phoenix.socket_url(url) for url in urls])
    for _ in range(random.randrange(len(urls))):  # so that clients spread over the gateways
        next(turns)

    async def find() -> str:
        return next(turns)

    return find


def _backoff(failures: int) -> float:
    """Return the pause before the next attempt, in seconds, with jitter; its maximum doubles with each failure."""
    ceiling = min(LAST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(failures, 10))
    return ceiling * (0.5 + random.random() / 2)


def _denial(error: InvalidStatus) -> str:
    """Return the gateway's reason for refusing the WebSocket: the body of its answer."""
    body = error.response.body or b""
    return bytes(body).decode(errors="replace")[:500] or f"the gateway answered {error.response.status_code}"
