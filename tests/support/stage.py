"""The stage of a story that is played on the manual's shop, for comparing the examples of the reference."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
import pytest

from tests.support import hostile
from tests.support.manual import examples
from tests.support.observed import Observed
from tests.support.shop import Call, Message, Shop, Socket, token

EXAMPLES = {name: example for page in ("channels", "http", "grpc") for name, example in examples(page).items()}

TOPIC = "live:orders?region=north"
CANONICAL = "orders?limit=10&region=north"
PATH = "/live/orders?region=north"


@dataclass
class Stage:
    """The state that all scenes share: the cluster, the observations so far, and clients of gateway-1."""

    shop: Shop
    found: Observed
    tasks: asyncio.TaskGroup
    socket: Socket
    live: Any
    cluster: Any
    changes: Call = field(init=False)  # WatchCluster
    watch: Call = field(init=False)
    feed: Call = field(init=False)

    @property
    def gateway(self) -> str:
        """`host:port` of the HTTP of gateway-1."""
        return self.shop.cluster.gateway(0)

    async def http(self, name: str, path: str, status: int, **headers: str) -> None:
        """Ask gateway-1 with a token and keep the JSON that it answers with this status."""
        bearer = {"Authorization": f"Bearer {token()}"} | {key.capitalize(): each for key, each in headers.items()}
        answer = await hostile.http(self.gateway, path, bearer)
        assert (answer[0], name) == (status, name)
        self.found.note(name, answer[2])

    async def fails(self, name: str, call: Awaitable[Any]) -> None:
        """Keep the error that a gRPC call ends with."""
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        self.found.note_error(name, error.value)


def is_event(event: str, **fields: object) -> Callable[[Message], bool]:
    """Match an event of TOPIC whose payload has these fields."""
    return lambda message: message[2:4] == [TOPIC, event] and fields.items() <= message[4].items()
