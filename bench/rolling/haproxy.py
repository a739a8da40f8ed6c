"""HAProxy in front of gateways, with health checks that take 5 s and no second chance for a connection.

It is the `haproxy` of Debian, or the program in the environment variable HAPROXY.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from bench.processes import running
from pollcast.services.local import ports

CONFIG = """
global
    maxconn 9000
    nbthread 1
    stats socket {folder}/haproxy-{number}.sock
defaults
    mode http
    timeout connect 5s
    timeout client 75s
    timeout server 75s
    timeout tunnel 75s
    retries 0
frontend clients
    bind 127.0.0.1:{http}
    default_backend gateways
backend gateways
    balance leastconn
    option httpchk GET /readyz
    default-server check inter {seconds}s fall 1 rise 1
{servers}
frontend calls
    mode tcp
    bind 127.0.0.1:{grpc}
    default_backend grpc
backend grpc
    mode tcp
    balance leastconn
    option httpchk GET /readyz
    default-server check inter {seconds}s fall 1 rise 1
{grpc_servers}
"""


def program() -> str:
    """Return the path of HAProxy. Raises SystemExit when there is none."""
    found = os.environ.get("HAPROXY") or shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if found is None:
        raise SystemExit("HAProxy is needed: apt install haproxy")
    return found


@contextlib.asynccontextmanager
async def haproxy(
    folder: Path, number: int, gateways: Sequence[tuple[int, int]], seconds: float
) -> AsyncIterator[tuple[tuple[str, int], tuple[str, int]]]:
    """Run HAProxy in front of gateways (their ports of HTTP and gRPC), and yield its addresses for both."""
    http, grpc = ports.free_port(), ports.free_port()
    config = folder / f"haproxy-{number}.cfg"
    config.write_text(
        CONFIG.format(
            folder=folder,
            number=number,
            http=http,
            grpc=grpc,
            seconds=f"{seconds:g}",
            servers="\n".join(f"    server gateway-{n} 127.0.0.1:{one}" for n, (one, _) in enumerate(gateways, 1)),
            grpc_servers="\n".join(
                f"    server gateway-{n} 127.0.0.1:{two} port {one}" for n, (one, two) in enumerate(gateways, 1)
            ),
        )
    )
    async with running(program(), "-f", str(config), "-db", errors=folder / f"haproxy-{number}.log"):
        yield ("127.0.0.1", http), ("127.0.0.1", grpc)
