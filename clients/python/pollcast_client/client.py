"""A client for programs without an event loop: scripts, notebooks, Streamlit.

A thread in the background runs one watch for all topics of a client, so that results are always current, and heartbeats
go out, whatever the program does meanwhile. Of each topic only its newest state is kept: a program that takes long
skips versions and holds nothing back.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pollcast_client.change import Change, Status
from pollcast_client.errors import Refused
from pollcast_client.poking import DEFAULT_URL, TIMEOUT_SECONDS
from pollcast_client.result import Result, Row
from pollcast_client.tokens import TokenSource
from pollcast_client.watching import HEARTBEAT_SECONDS, Url, Watch

if TYPE_CHECKING:
    import pandas
    import pyarrow

T = TypeVar("T")

_log = logging.getLogger("pollcast_client")


class Client:
    """One connection to a cluster, in a thread of its own, from its creation until `close()`.

    `live` returns the live result of a topic. It is a context manager. See `watch` for the arguments.
    """

    def __init__(
        self,
        url: Url = DEFAULT_URL,
        *,
        token: TokenSource | None = None,
        heartbeat: float = HEARTBEAT_SECONDS,
        parse_float: Callable[[str], Any] = float,
    ) -> None:
        self._watch = Watch(url=url, token=token, heartbeat=heartbeat, parse_float=parse_float)
        self._topics: dict[str, _Topic] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._error: BaseException | None = None  # what ended the thread
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="pollcast-client", daemon=True)
        self._thread.start()

    def live(self, topic: str) -> Live:
        """Return the live result of a topic. The live results of one topic share one subscription, and each ends by
        itself. Raises RuntimeError when the client is closed, and the error that ended the client, such as Refused for
        its token."""
        with self._lock:
            if self._error is not None:
                raise self._error
            if self._closed:
                raise RuntimeError("the client is closed")
            state = self._topics.get(topic)
            if state is None or state.error is not None:
                state = self._topics[topic] = _Topic(topic)
                self._call(self._watch.join(topic))
            state.users += 1
        return Live(state, self._leave)

    def poke(self, topic: str, timeout: float = TIMEOUT_SECONDS) -> int:
        """Have a topic polled at once, because something changed; return the number of topics that are polled for it.

        See `pollcast_client.poke`. Raises RuntimeError when the client is closed.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("the client is closed")
            sent = asyncio.run_coroutine_threadsafe(self._watch.poke(topic, timeout), self._loop)
        return sent.result()

    def close(self) -> None:
        """Close the connection and end all live results."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def _leave(self, state: _Topic) -> None:
        with self._lock:
            state.users -= 1
            if state.users or self._closed or self._topics.get(state.topic) is not state:
                return
            del self._topics[state.topic]
            if not state.ended:
                self._call(self._watch.leave(state.topic))

    def _call(self, action: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the thread. Actions run in the order of these calls."""
        asyncio.run_coroutine_threadsafe(action, self._loop)

    # --- in the thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        following = asyncio.create_task(self._follow())
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait([following, stopping], return_when=asyncio.FIRST_COMPLETED)
        for task in (following, stopping):
            task.cancel()
        [error, _] = await asyncio.gather(following, stopping, return_exceptions=True)
        await self._watch.close()
        with self._lock:
            self._closed = True
            self._error = None if isinstance(error, asyncio.CancelledError) else error
            topics = list(self._topics.values())
        for state in topics:
            state.end(self._error)

    async def _follow(self) -> None:
        """Follow all topics. A topic that the gateway refuses ends by itself; other errors end the client."""
        while True:
            try:
                async for change in self._watch:
                    if (state := self._topics.get(change.topic)) is not None:
                        state.take(change)
                return
            except Refused as refused:
                state = self._topics.get(refused.topic) if refused.topic is not None else None
                if state is None:
                    raise
                await self._watch.leave(state.topic)
                state.end(refused)


class _Topic:
    """The newest state of a topic, which the thread writes and the program reads."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.users = 0
        self.changed = threading.Condition()
        self.change = Change(topic, "status", None, Status("connecting"), None, {})
        self.number = 0
        self.error: BaseException | None = None
        self.ended = False

    def take(self, change: Change) -> None:
        """Replace the state."""
        with self.changed:
            self.change = change
            self.number += 1
            self.changed.notify_all()

    def end(self, error: BaseException | None) -> None:
        """End the topic; `error` is logged, and raised to who waits for a change."""
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        status = Status("closed", "closed", now) if error is None else Status("failed", str(error), now)
        with self.changed:
            if self.ended:
                return
            if error is not None:  # a program that only reads the rows would not notice
                why = f"{error.reason}: {error.detail}" if isinstance(error, Refused) else str(error)
                _log.warning("The live result of %s has ended, and its rows stay as they are: %s", self.topic, why)
            self.ended, self.error = True, error
            self.change = replace(self.change, kind="status", status=status, delta=None)
            self.number += 1
            self.changed.notify_all()


class Live:
    """The live result of one topic: `rows`, `status` and the other properties are always the newest.

    Iterating over it yields its changes as they come, at once and then after each; changes that came meanwhile are
    skipped. It is a context manager. Any thread may use it.
    """

    def __init__(self, state: _Topic, leave: Callable[[_Topic], None]) -> None:
        self._state = state
        self._leave = leave
        self._closed = False
        self._last: Change | None = None

    @property
    def topic(self) -> str:
        """The topic, in the spelling that was given."""
        return self._state.topic

    @property
    def change(self) -> Change:
        """The topic as it is now, as one consistent object."""
        with self._state.changed:
            return self._state.change if not self._closed or self._last is None else self._last

    @property
    def result(self) -> Result | None:
        """The whole result; None until the first one arrives."""
        return self.change.result

    @property
    def rows(self) -> Sequence[Row]:
        """The result's rows in the query's order, empty until the first result arrives. Do not modify them."""
        return self.change.rows

    @property
    def status(self) -> Status:
        """The state of the topic, and the reason for it."""
        return self.change.status

    @property
    def presence(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """The topic's members."""
        return self.change.presence

    def first(self, timeout: float | None = 10.0) -> Result:
        """Return the result; wait for the first one for at most `timeout` seconds (None: for ever).

        Raises TimeoutError when there is none by then, and the error that ended the topic, such as Refused.
        """
        state = self._state
        with state.changed:
            state.changed.wait_for(lambda: state.change.result is not None or state.ended, timeout)
            if state.error is not None:
                raise state.error
            if state.change.result is None:
                status = state.change.status
                raise TimeoutError(f"{state.topic} has no result yet: {status.state}, {status.reason}")
            return state.change.result

    def __iter__(self) -> Iterator[Change]:
        return self.changes()

    def changes(self, seconds: float | None = None) -> Iterator[Change]:
        """Yield the changes, as iterating does, but only for so many seconds: for a cell of a notebook."""
        state, seen = self._state, 0
        until = None if seconds is None else time.monotonic() + seconds
        while True:
            with state.changed:
                while state.number == seen and not (state.ended or self._closed):
                    left = None if until is None else until - time.monotonic()
                    if (left is not None and left <= 0) or not state.changed.wait(left):
                        return
                if state.error is not None:
                    raise state.error
                if state.ended or self._closed or (until is not None and until <= time.monotonic()):
                    return
                change, skipped = state.change, state.number - seen > 1
                seen = state.number
            yield replace(change, kind="snapshot", delta=None) if skipped and change.kind == "delta" else change

    def rows_as(self, model: Callable[..., T]) -> list[T]:
        """Return the rows as objects of a class: a Pydantic model, a dataclass, or a TypedDict."""
        return self.change.rows_as(model)

    def to_pandas(self) -> pandas.DataFrame:
        """Return the rows as a pandas DataFrame (extra `pandas`), with the key columns as its index."""
        return self.change.to_pandas()

    def to_arrow(self) -> pyarrow.Table:
        """Return the rows as an Arrow table (extra `arrow`)."""
        return self.change.to_arrow()

    def close(self) -> None:
        """End this live result. The last one of a topic leaves it."""
        state = self._state
        with state.changed:
            if self._closed:
                return
            self._closed = True
            now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
            closed = state.change.status if state.ended else Status("closed", "closed", now)
            self._last = replace(state.change, kind="status", status=closed, delta=None)
            state.changed.notify_all()
        self._leave(state)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()
