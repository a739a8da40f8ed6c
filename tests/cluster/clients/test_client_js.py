"""The JavaScript client (clients/js), run by Node.js against a real cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import orjson
import psycopg
import pytest

from tests.support.balancer import Balancer
from tests.support.cluster import Cluster
from tests.support.node_js import Script, running_script
from tests.support.repository import ROOT
from tests.support.tokens import token

SCRIPT = ROOT / "clients" / "js" / "test" / "follow.mjs"

Printed = dict[str, Any]
"""A line that follow.mjs printed."""


class Follower:
    """A process that runs follow.mjs: it prints every change of a topic."""

    def __init__(self, script: Script) -> None:
        self._script = script

    @classmethod
    @asynccontextmanager
    async def start(cls, url: str, topic: str, *arguments: str) -> AsyncIterator[Follower]:
        async with running_script(SCRIPT, url, topic, *arguments) as script:
            yield cls(script)

    def answer(self, request: Printed, token: str) -> None:
        """Answer a request for a token."""
        self._script.input.write(orjson.dumps({"request": request["request"], "token": token}) + b"\n")

    async def token_request(self, expiring: str | None) -> Printed:
        """Return the next request for a token, which has to be for one in place of `expiring`."""
        request = (await self.until(lambda line: line["kind"] == "token"))[-1]
        assert request["expiring"] == expiring
        return request

    async def until(self, matches: Callable[[Printed], bool]) -> list[Printed]:
        """Return the lines that the process prints up to the first one that matches, which is the last."""
        printed: list[Printed] = []
        try:
            async with asyncio.timeout(30):
                async for text in self._script.output:
                    printed.append(orjson.loads(text))
                    if matches(printed[-1]):
                        return printed
        except TimeoutError:
            pass
        raise AssertionError(f"no line matches among {printed}")

    async def lose_connection(self, balancer: Balancer) -> None:
        """Cut the connections until the client notices: between two of its long polls it has none to lose."""
        noticing = asyncio.create_task(self.until(lambda line: line["status"]["state"] == "stale"))
        while not noticing.done():
            balancer.cut()
            await asyncio.wait({noticing}, timeout=0.1)
        await noticing


def rows(*pairs: tuple[int, int]) -> Callable[[Printed], bool]:
    """Return a condition: the topic is live, with these pairs of id and n as its rows."""
    expected = [{"id": key, "n": n} for key, n in pairs]
    return lambda line: line.get("rows") == expected and line["status"]["state"] == "live"


def closed(line: Printed) -> bool:
    """Return whether the line reports a closed connection."""
    return bool(line["kind"] == "closed")


def results(lines: list[Printed]) -> list[str]:
    """Return the kinds of the changes that brought rows."""
    return [line["kind"] for line in lines if line["kind"] in ("snapshot", "delta")]


@pytest.mark.parametrize("websockets", [True, False])
async def test_the_client_applies_deltas_and_resumes_with_the_deltas_that_it_missed(
    running: Cluster, stock: psycopg.Connection[Any], websockets: bool
) -> None:
    async with Balancer.start([running.gateway(0)]) as balancer, AsyncExitStack() as stack:
        balancer.refuses_upgrades = not websockets
        flags = () if websockets else ("--fallback",)
        follower = await stack.enter_async_context(Follower.start(balancer.url, "live:first_shelf", *flags))
        await follower.until(rows((1, 5), (2, 3)))
        stock.execute("update stock set n = 9 where id = 2")
        assert (await follower.until(rows((2, 9), (1, 5))))[-1]["kind"] == "delta"
        await follower.lose_connection(balancer)
        stock.execute("delete from stock where id = 1")
        assert results(await follower.until(rows((2, 9)))) == ["delta"]


async def test_the_client_lists_the_members_of_both_gateways(running: Cluster, stock: psycopg.Connection[Any]) -> None:
    one, two = (f"http://{running.gateway(number)}" for number in (0, 1))
    async with Follower.start(one, "live:first_shelf", "alice") as alice:
        await alice.until(lambda line: line["presence"] == ["alice"])
        async with Follower.start(two, "live:first_shelf", "bob"):
            await alice.until(lambda line: sorted(line["presence"]) == ["alice", "bob"])


async def test_a_refused_join_is_reported_once(running: Cluster) -> None:
    async with Follower.start(f"http://{running.gateway(0)}", "live:nothing") as follower:
        [refusal] = await follower.until(lambda line: line["kind"] == "refused")
        assert refusal["reason"] == "unknown_query"


# --- tokens -------------------------------------------------------------------------------------------------------


async def test_a_token_renewed_in_time_keeps_the_connection_and_one_that_expires_loses_it(
    guarded: Cluster, stock: psycopg.Connection[Any]
) -> None:
    async with (
        Balancer.start([guarded.gateway()]) as kept,
        Balancer.start([guarded.gateway()]) as lost,
        Follower.start(kept.url, "live:first_shelf", "--tokens") as renewing,
        Follower.start(kept.url, "live:first_shelf", "--tokens") as mistaken,
        Follower.start(lost.url, "live:first_shelf", "--tokens") as late,
    ):
        requests = [(follower, await follower.token_request(None)) for follower in (renewing, mistaken, late)]
        brief = token(4)  # made now, as the processes may have taken long to start
        for follower, request in requests:
            follower.answer(request, brief)
        for follower, _ in requests:
            await follower.until(rows((1, 5), (2, 3)))
        renewing.answer(await renewing.token_request(brief), token(300))
        # The gateway refuses the token of another subject; the client reports that and requests another token.
        mistaken.answer(await mistaken.token_request(brief), other := token(300, sub="bob"))
        refused = (await mistaken.until(lambda line: line["kind"] == "token refused"))[-1]
        assert (refused["reason"], refused["token"]) == ("forbidden", other)
        mistaken.answer(await mistaken.token_request(brief), token(300))
        # A request without an answer costs the connection. By then the two others would have lost theirs, too.
        await late.token_request(brief)
        assert (await late.until(closed))[-1]["code"] == 4001
        late.answer(await late.token_request(None), token(300))
        stock.execute("update stock set n = 9 where id = 2")
        for follower, _ in requests:
            lines = await follower.until(rows((2, 9), (1, 5)))
            assert results(lines) == ["delta"]
            assert follower is late or not any(map(closed, lines))
        assert (kept.connections, lost.connections) == (2, 2)


async def test_the_client_requests_another_token_after_one_that_was_refused(
    guarded: Cluster, stock: psycopg.Connection[Any]
) -> None:
    async with Follower.start(f"http://{guarded.gateway()}", "live:first_shelf", "--tokens") as follower:
        follower.answer(await follower.token_request(None), token(-5))
        await follower.until(closed)
        follower.answer(await follower.token_request(None), token(60))
        await follower.until(rows((1, 5), (2, 3)))
