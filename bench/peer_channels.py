"""Django Channels on Daphne with its layer in memory; run by `bench.peers` in an environment of its own.

Every client is in one group; a line on the standard input is sent to the group.
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

obeying: list[asyncio.Task[None]] = []


class Consumer(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        await self.channel_layer.group_add("all", self.channel_name)
        await self.accept()
        await self.send(text_data="ready")
        if not obeying:
            obeying.append(asyncio.ensure_future(obey()))

    async def delta(self, event: dict[str, str]) -> None:
        await self.send(text_data=event["text"])


async def obey() -> None:
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
