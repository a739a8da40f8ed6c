"""A gateway of several processes on one port: `pollcast gateway --workers N` (docs/reference/commands.md#services).

The parent serves nobody. It claims the port, without listening, for as long as it lives, and supervises the workers.
Each worker is a node of its own, `<node>.<i>` from 1, with its own listener on the shared port (SO_REUSEPORT), among
which the kernel distributes the connections, and with its own gRPC port. When a worker dies, its clients reconnect and
reach the others; the clients of the others notice nothing.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence

from pollcast.services.errors import Problem, SettingsInvalid
from pollcast.services.process import logs
from pollcast.services.process.addresses import HostPort, join_host_port, split_host_port
from pollcast.services.process.settings import GatewaySettings
from pollcast.services.process.variables import overridden
from pollcast.services.process.workers import Hangups, Worker, supervise
from pollcast.services.serving import web

log = logs.get_logger("gateway")


async def run(
    settings: GatewaySettings,
    flags: Mapping[str, object],
    stop: asyncio.Event,
    local_pages: bool = False,
    hangups: Hangups | None = None,
) -> None:
    """Run the workers until `stop` is set, then drain them. `flags` are the settings that were given as flags.

    `hangups` passes SIGHUP on to them.

    Raises CantListen when the port is taken, WorkersMisconfigured when the workers refuse their settings, and
    WorkersFailed when one does not drain.
    """
    with _claim(settings.http) as port, _temporary_folder() as folder:
        http = join_host_port(*web.address_of(port))
        log.info("workers serve", http=http, workers=settings.worker_count)
        options = ["--worker-folder", folder, *(["--local-pages"] if local_pages else [])]
        await supervise(workers(settings, flags, http, options, os.environ), stop, hangups)


def workers(
    settings: GatewaySettings,
    flags: Mapping[str, object],
    http: HostPort,
    options: Sequence[str],
    environment: Mapping[str, str],
) -> list[Worker]:
    """Return the workers of a gateway that serves HTTP at `http`, each with these options of the command. Pure.

    Flags are passed on as variables. A gRPC port is that of the first worker, and the others get the next ones.
    """
    given = {f"POLLCAST_{name.upper()}": str(value) for name, value in flags.items()}
    grpc_host, grpc_port = split_host_port(settings.grpc)
    found = []
    for i in range(1, settings.worker_count + 1):
        own = {
            "POLLCAST_NODE": f"{settings.node}.{i}",
            "POLLCAST_HTTP": http,
            "POLLCAST_GRPC": join_host_port(grpc_host, grpc_port and grpc_port + i - 1),
            "POLLCAST_WORKERS": "1",
        }
        command = [sys.executable, "-P", "-m", "pollcast", "gateway", *options]
        found.append(Worker(own["POLLCAST_NODE"], command, overridden(environment, {**given, **own})))
    return found


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a new folder for the workers. Raises SettingsInvalid where nothing can be written."""
    try:
        return tempfile.TemporaryDirectory(prefix="pollcast-gateway-")
    except OSError as error:
        reason = f"several workers share a temporary folder, and there is none: set TMPDIR to one ({error})"
        raise SettingsInvalid([Problem("settings", "", "POLLCAST_WORKERS", reason)]) from None


def _claim(address: HostPort) -> socket.socket:
    """Return a socket that keeps the address for the workers, and gets no connection itself."""
    web.bind(address).close()  # fails when anybody else listens there, with SO_REUSEPORT too
    family, where, both = web.resolve(address)
    claim = socket.socket(family)
    claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family == socket.AF_INET6:
        claim.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both)
    try:
        claim.bind(where)
    except OSError as error:
        claim.close()
        raise web.cant_serve(address, error) from None
    return claim
