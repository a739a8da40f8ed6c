"""python-socketio on uvicorn and uvloop; run by `bench.peers` in an environment of its own.

Every client is in one room; a line on the standard input is emitted to the room.
"""

import asyncio
import sys

import socketio
import uvicorn

server = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*", ping_interval=600)
app = socketio.ASGIApp(server)


@server.event
async def connect(sid: str, environ: object) -> None:
    await server.enter_room(sid, "all")


async def obey() -> None:
    lines = asyncio.StreamReader(limit=2**20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async for line in lines:
        await server.emit("delta", line.decode().rstrip("\n"), room="all")


async def main() -> None:
    config = uvicorn.Config(app, port=int(sys.argv[1]), log_level="warning", ws_max_size=2**20)
    serving = uvicorn.Server(config)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(serving.serve())
        tasks.create_task(obey())
        print("ready", flush=True)


if __name__ == "__main__":
    import uvloop

    uvloop.run(main())
