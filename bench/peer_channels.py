"""Django Channels on Daphne with its in-memory layer, which `bench.peers` runs in a virtual environment of its own.

All clients are in one group. The server sends every line of its standard input to the group.
"""

import asyncio
import sys

import django
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["channels"],
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
    SECRET_KEY="bench",
)
django.setup()

from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from channels.layers import get_channel_layer  # noqa: E402
from channels.routing import ProtocolTypeRouter  # noqa: E402
from daphne.server import Server  # noqa: E402

forwarding: list[asyncio.Task[None]] = []
"""The task that runs `forward`, once the first client has connected."""


class Consumer(AsyncWebsocketConsumer):
    """A client's connection, which is in the group from its start."""

    async def connect(self) -> None:
        await self.channel_layer.group_add("all", self.channel_name)
        await self.accept()
        await self.send(text_data="ready")
        if not forwarding:
            forwarding.append(asyncio.ensure_future(forward()))

    async def delta(self, event: dict[str, str]) -> None:
        await self.send(text_data=event["text"])


async def forward() -> None:
    """Send every line of the standard input to the group."""
    lines = asyncio.StreamReader(limit=2**20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    layer = get_channel_layer()
    async for line in lines:
        await layer.group_send("all", {"type": "delta", "text": line.decode().rstrip("\n")})


if __name__ == "__main__":
    print("ready", flush=True)
    Server(
        ProtocolTypeRouter({"websocket": Consumer.as_asgi()}),
        endpoints=[f"tcp:port={sys.argv[1]}:interface=127.0.0.1"],
        signal_handlers=False,
        ping_interval=600,
    ).run()
