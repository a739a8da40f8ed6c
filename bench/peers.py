"""Benchmark of the same fan-out on a Python user's alternatives: plain Starlette, python-socketio and Django Channels.

The latter two are installed once, into a virtual environment of their own in the user's cache folder.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
from pathlib import Path

from bench import table
from bench.fanout import ROW_BYTES, ROWS, gateway_cost, yardstick_cost
from bench.processes import running, swarm
from bench.stage import rows
from pollcast.services.local import ports

PACKAGES = ("python-socketio>=5.14", "uvicorn[standard]>=0.38", "uvloop", "channels>=4.3", "daphne>=4.2")

CLIENTS = 1_000
ROUNDS = 40
RUNS = 3
FRAME_BYTES = 4


async def run() -> None:
    """Print the CPU cost of a message for each server."""
    python = await asyncio.to_thread(environment)
    ours, size = await gateway_cost(CLIENTS, 1)
    bare = await yardstick_cost(CLIENTS, 1, size)
    payload = (b"".join(text for _, text in rows(ROWS, ROW_BYTES)) * 2)[: size - FRAME_BYTES]
    lines = [("bare transport.write", bare, bare / ours), ("Pollcast", ours, 1.0)]
    cost = await peer_cost(Path(sys.executable), "peer_starlette", "/", "", "ready", payload)
    lines.append(("Starlette on uvicorn and uvloop", cost, cost / ours))
    # Engine.IO: the server sends the first packet; "40" requests the default namespace, "40{…" confirms it.
    path = "/socket.io/?EIO=4&transport=websocket"
    cost = await peer_cost(python, "peer_socketio", path, "40", '40{"sid"', payload)
    lines.append(("python-socketio on uvicorn and uvloop", cost, cost / ours))
    cost = await peer_cost(python, "peer_channels", "/", "", "ready", payload)
    lines.append(("Django Channels on Daphne, layer in memory", cost, cost / ours))
    table.show(
        f"Fan-out of other servers: CPU-seconds per million messages of {size:,} bytes, {CLIENTS:,} clients",
        ("server", "CPU-seconds", "× Pollcast"),
        lines,
    )


async def peer_cost(python: Path, script: str, path: str, send: str, until: str, payload: bytes) -> float:
    """Return a server's CPU-seconds per million delivered messages. The clients offer no compression.

    Each client connects to `path`, sends `send`, and has arrived when it has received `until`.
    """
    port = ports.free_port()
    file = Path(__file__).with_name(f"{script}.py")
    async with running(str(python), str(file), str(port)) as server, swarm() as crowd:
        await server.line()
        await _until_open(port)
        await crowd.ask(do="connect", port=port, path=path, n=CLIENTS, send=[send], until=until, concurrency=20)
        costs = []
        for _ in range(RUNS):
            await crowd.ask(do="reset")
            before = server.cpu
            for number in range(1, ROUNDS + 1):
                server.write_line(payload)
                await crowd.ask(do="expect", bytes=number * CLIENTS * len(payload))
            costs.append((server.cpu - before) / (ROUNDS * CLIENTS) * 1e6)
        return statistics.median(costs)


async def _until_open(port: int) -> None:
    """Wait until the port accepts connections; raises TimeoutError after 20 s."""
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
            except OSError:
                await asyncio.sleep(0.1)
            else:
                return


def environment() -> Path:
    """Return the Python of the peers' virtual environment; create the environment when it is missing or outdated."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pollcast-bench"
    python = cache / "bin" / "python"
    installed = cache / "installed"
    wanted = "\n".join(PACKAGES)
    if not installed.exists() or installed.read_text() != wanted:
        print("Installing python-socketio and Django Channels into", cache, flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(cache)], check=True)
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES], check=True
        )
        installed.write_text(wanted)
    return python
