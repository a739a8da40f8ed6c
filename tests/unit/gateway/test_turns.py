"""The work of one turn of the event loop: bounded, in order, and written at once."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from itertools import pairwise
from typing import Any

import orjson
import pytest
from websockets.asyncio.client import connect

from pollcast.gateway.door import ANSWER_SECONDS
from pollcast.gateway.turns import BUDGET_SECONDS, Turns
from pollcast.gateway.wire import Wire
from tests.support.gateway_clients import JOIN, TOPIC, bare, heard, join, rows
from tests.support.gateway_in_process import InProcessGateway, turn
from tests.support.waiting import eventually


async def test_all_answers_to_one_message_leave_in_one_write(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.change(TOPIC, rows(3, 100))
    async with connect(gateway.url) as first, connect(gateway.url, compression=None) as client:
        await join(first)
        assert (await heard(first))[3] == "snapshot"
        (socket,) = [socket for socket in gateway.sockets if not socket.channels]
        assert isinstance(socket.wire, Wire)
        transport = socket.wire.transport
        assert transport is not None
        writes: list[int] = []
        written = transport.writelines

        def counted(frames: list[bytes]) -> None:
            writes.append(len(frames))
            written(frames)

        monkeypatch.setattr(transport, "writelines", counted)
        await join(client)
        assert (await heard(client))[3] == "snapshot"
        assert writes == [2]


async def test_work_in_turns_is_done_in_order_and_lets_the_loop_go_round() -> None:
    turns = Turns(asyncio.get_running_loop())
    done: list[int] = []
    rounds: list[int] = []

    def work(number: int) -> None:
        done.append(number)
        ends = time.perf_counter() + BUDGET_SECONDS
        while time.perf_counter() < ends:
            pass

    for number in range(5):
        turns.later(lambda number=number: work(number))  # type: ignore[misc]
    while len(done) < 5:
        assert not turns.open
        await asyncio.sleep(0)
        rounds.append(len(done))
    assert done == list(range(5))
    assert max(after - before for before, after in pairwise([0, *rounds])) == 1
    await turn()
    assert turns.open


async def test_a_turn_is_over_when_its_jobs_owe_as_much_as_it_may_last() -> None:
    turns = Turns(asyncio.get_running_loop())
    done: list[int] = []
    rounds: list[int] = []

    def work(number: int) -> None:
        done.append(number)
        turns.owe(BUDGET_SECONDS)

    for number in range(5):
        turns.later(lambda number=number: work(number))  # type: ignore[misc]
    while len(done) < 5:
        await asyncio.sleep(0)
        rounds.append(len(done))
    assert max(after - before for before, after in pairwise([0, *rounds])) == 1
    await turn()
    assert turns.open
    turns.owe(BUDGET_SECONDS)
    assert not turns.open
    await turn()
    assert turns.open


async def test_requests_of_many_connections_begin_in_several_turns(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.change(TOPIC, rows(3, 100))
    begun = most = 0
    owe = Turns.owe

    def counted(self: Turns, seconds: float) -> None:
        nonlocal begun
        begun += 1
        owe(self, seconds)

    async def count_in_turns() -> None:
        nonlocal most
        while True:
            before = begun
            await asyncio.sleep(0)
            most = max(most, begun - before)

    monkeypatch.setattr(Turns, "owe", counted)
    async with contextlib.AsyncExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(gateway.address)) for _ in range(100)]
        for client in clients:
            client.sendall(f"GET /live/{TOPIC} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        counting = asyncio.ensure_future(count_in_turns())
        await eventually(lambda: begun == len(clients))
        counting.cancel()
    assert most <= 2 * (BUDGET_SECONDS / ANSWER_SECONDS + 1)  # those read at once, and those whose turn it is then


async def test_an_error_in_one_job_is_reported_and_the_others_are_done() -> None:
    loop = asyncio.get_running_loop()
    turns = Turns(loop)
    reported: list[Any] = []
    done: list[bool] = []
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
    try:
        turns.later(lambda: [][0])
        turns.later(lambda: done.append(True))
        await eventually(lambda: done)
    finally:
        loop.set_exception_handler(before)
    assert isinstance(reported[0], IndexError)


async def test_hundreds_of_clients_that_join_at_once_get_snapshots_while_others_get_deltas(
    gateway: InProcessGateway,
) -> None:
    gateway.change(TOPIC, rows(3, 100))

    async def connect_and_join() -> str:
        async with bare(gateway) as client:
            client.send(JOIN)
            replied = orjson.loads((await client.frame())[1])
            return str(replied[3]) + str(orjson.loads((await client.frame())[1])[3])

    async with connect(gateway.url) as neighbour:
        await join(neighbour)
        joining = [asyncio.ensure_future(connect_and_join()) for _ in range(300)]
        gateway.change(TOPIC, rows(3, 100, stamp=1))
        assert (await heard(neighbour))[3] == "snapshot"
        assert (await heard(neighbour))[3] == "delta"
        assert set(await asyncio.gather(*joining)) == {"phx_replysnapshot"}
