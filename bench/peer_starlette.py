"""Starlette on uvicorn and uvloop, as its documentation has it: what our gateway would be without wires of its own.

Every client has its task; a line on the standard input is sent to all of them, one after the other.
"""

import asyncio
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

clients: set[WebSocket] = set()


async def serve(websocket: WebSocket) -> None:
    await websocket.accept()
    clients.add(websocket)
    try:
        await websocket.send_text("ready")
        while True:
            await websocket.receive_text()
    except WebSocketDisconnect:
        clients.discard(websocket)


async def obey() -> None:
    lines = asyncio.StreamReader(limit=2**20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async for line in lines:
        text = line.decode().rstrip("\n")
        for client in list(clients):
            await client.send_text(text)


async def main() -> None:
    app = Starlette(routes=[WebSocketRoute("/", serve)])
    config = uvicorn.Config(app, port=int(sys.argv[1]), log_level="warning", ws_ping_interval=None)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(uvicorn.Server(config).serve())
        tasks.create_task(obey())
        print("ready", flush=True)


if __name__ == "__main__":
    import uvloop

    uvloop.run(main())
