"""Starlette on uvicorn and uvloop, written as its documentation suggests: a gateway that does not write to the
transports itself.

Each client has a task of its own. The server sends every line of its standard input to all clients, one by one.
"""

import asyncio
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

clients: set[WebSocket] = set()


async def serve(websocket: WebSocket) -> None:
    """Serve one client until it disconnects."""
    await websocket.accept()
    clients.add(websocket)
    try:
        await websocket.send_text("ready")
        while True:
            await websocket.receive_text()
    except WebSocketDisconnect:
        clients.discard(websocket)


async def forward() -> None:
    """Send every line of the standard input to all clients."""
    lines = asyncio.StreamReader(limit=2**20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async for line in lines:
        text = line.decode().rstrip("\n")
        for client in list(clients):
            await client.send_text(text)


async def main() -> None:
    """Serve on the port of the command line until killed."""
    app = Starlette(routes=[WebSocketRoute("/", serve)])
    config = uvicorn.Config(app, port=int(sys.argv[1]), log_level="warning", ws_ping_interval=None)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(uvicorn.Server(config).serve())
        tasks.create_task(forward())
        print("ready", flush=True)


if __name__ == "__main__":
    import uvloop

    uvloop.run(main())
