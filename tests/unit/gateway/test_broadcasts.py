"""Messages to all channels of a topic: in order, in slices, and never twice to a channel that has the present state."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.gateway import broadcasts
from pollcast.gateway.audience import Audience
from pollcast.gateway.backlog import PRESENCE, RESULT
from pollcast.gateway.cohorts import AT_ONCE_MEMBERS, SLICE_MEMBERS, Traffic
from pollcast.gateway.history import History
from pollcast.gateway.status import State, Status
from pollcast.gateway.version import Version
from tests.support.audience_clients import Client, Later
from tests.support.keyed_rows import rows

STATES: list[State] = ["live", "stale", "failed"]

SCRIPTS = st.lists(
    st.one_of(
        st.tuples(st.just("status"), st.integers(0, 2)),
        st.tuples(st.just("presence"), st.just(0)),
        st.tuples(st.sampled_from(["join", "leave", "congest", "drain", "go on"]), st.integers(0, 9)),
    ),
    max_size=60,
)


class Watcher(Client):
    """A client that knows the topic's status and the number of the last presence event."""

    def __init__(self, status: Status, number: int) -> None:
        super().__init__()
        self.knows = status.state  # the reply to its join says so
        self.presence = number

    def write(self, frames: bytes) -> None:
        """Take messages: a status is another than the one before, and presence events come in their order."""
        before = len(self.payloads)
        super().write(frames)
        for event, payload in zip(self.events[before:], self.payloads[before:], strict=True):
            if event == "status":
                assert payload["state"] != self.knows
                self.knows = payload["state"]
            elif event == "presence_diff":
                assert payload["number"] == self.presence + 1
                self.presence = payload["number"]


@given(SCRIPTS)
def test_every_channel_ends_at_the_present_status_and_gets_presence_in_order(script: list[tuple[str, int]]) -> None:
    history, offload = History(["id"]), Later()
    audience = Audience(history, Traffic(), offload)
    history.take_snapshot(Version(1, 1), 0, rows((1, 1)))
    audience.serve()
    status, number = Status("live", None, 0), 0
    clients: list[Watcher] = []

    def drain(client: Watcher) -> None:
        client.blocked = False
        behind, client.behind = client.behind, 0
        if behind & PRESENCE:
            audience.skip_presence(client)
            client.presence = number  # the whole list
        if behind & RESULT:
            audience.catch_up(client, status)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(broadcasts, "AT_ONCE_MEMBERS", 2)
        patch.setattr(broadcasts, "SLICE_MEMBERS", 1)
        for action, argument in script:
            client = clients[argument % len(clients)] if clients else None
            if action == "status":
                new = Status(STATES[argument], None if argument == 0 else "why", 0)
                if not new.same_as(status):
                    before, status = status, new
                    audience.broadcast_status(status, before)
            elif action == "presence":
                number += 1
                audience.broadcast_presence(b"presence_diff", b'{"number":%d}' % number)
            elif action == "join":
                joined = Watcher(status, number)
                clients.append(joined)
                audience.join(joined, None)
            elif action == "go on":
                offload.go_on()
            elif client is not None and action == "leave":
                audience.leave(client)
                clients.remove(client)
            elif client is not None and action == "congest":
                client.blocked = True
            elif client is not None:
                drain(client)
        while offload.go_on():
            pass
        for client in clients:
            drain(client)
    for client in clients:
        assert (client.knows, client.presence) == (status.state, number)


def test_a_large_audience_is_written_to_in_slices_and_a_usual_one_at_once() -> None:
    for members, turns in ((AT_ONCE_MEMBERS, 0), (SLICE_MEMBERS * 3, 2)):
        offload = Later()
        audience = Audience(History(["id"]), Traffic(), offload)
        clients: list[Any] = [Client() for _ in range(members)]
        for client in clients:
            audience.join(client, None)
        audience.broadcast_presence(b"presence_diff", b"{}")
        at_once = members if turns == 0 else SLICE_MEMBERS
        assert sum(len(client.events) for client in clients) == at_once
        for _ in range(turns):
            assert offload.go_on()
        assert not offload.go_on()
        assert all(client.events == ["presence_diff"] for client in clients)
