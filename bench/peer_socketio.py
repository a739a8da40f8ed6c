"""python-socketio on uvicorn and uvloop, which `bench.peers` runs in a virtual environment of its own.

All clients are in one room. The server emits every line of its standard input to the room.
"""

import asyncio
import sys

import socketio
import uvicorn

server = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*", ping_interval=600)
app = socketio.ASGIApp(server)


@server.event
async def connect(sid: str, environ: object) -> None:
    """Add a new client to the room."""
    await server.enter_room(sid, "all")


async def forward() -> None:
    """Emit every line of the standard input to the room."""
    lines = asyncio.StreamReader(limit=2**20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async for line in lines:
        await server.emit("delta", line.decode().rstrip("\n"), room="all")


async def main() -> None:
    """Serve on the port of the command line until killed."""
    config = uvicorn.Config(app, port=int(sys.argv[1]), log_level="warning", ws_max_size=2**20)
    serving = uvicorn.Server(config)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(serving.serve())
        tasks.create_task(forward())
        print("ready", flush=True)


if __name__ == "__main__":
    import uvloop

    uvloop.run(main())
