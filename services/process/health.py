"""The image's health check, `python -m pollcast.services.process.health`: asks the service of this container for
`/readyz`, on the address that it serves.

That address is the flag `--http` of the container's first process, or else `POLLCAST_HTTP`, or the text of the file
that this variable with `_FILE` names. It runs every few seconds, so it imports little, and it connects directly,
whatever proxy the environment names. The exit status is 0 when the service is ready, else 1, with the reason on stdout.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from pollcast.services.process.addresses import is_unspecified, split_host_port

VARIABLE: Final = "POLLCAST_HTTP"
"""The variable with the address that a service serves HTTP on."""

FIRST: Final = Path("/proc/1/cmdline")
"""The command line of a container's first process, with a zero byte after each argument."""

TIMEOUT_SECONDS: Final = 2.0
"""Maximum time to wait for the service, in seconds."""


def address(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return the address that a service with these arguments and variables serves HTTP on, as `host:port`.

    Raises LookupError when they don't say, and OSError when a file that they name can't be read.
    """
    for at, argument in enumerate(arguments):
        if argument.startswith("--http="):
            return argument.removeprefix("--http=")
        if argument == "--http" and at + 1 < len(arguments):
            return arguments[at + 1]
    if value := environment.get(VARIABLE, "").strip():
        return value
    if file := environment.get(f"{VARIABLE}_FILE", "").strip():
        return Path(file).read_text(encoding="utf-8").strip()
    raise LookupError("neither --http nor POLLCAST_HTTP says where the service listens")


def reachable(served: str) -> tuple[tuple[str, ...], int]:
    """Return the hosts, one of them right, and the port by which this container reaches a service that serves an
    address.

    Raises ValueError when the address is none, or has port 0, which stands for one that only the service knows.
    """
    host, port = split_host_port(served)
    if port == 0:
        raise ValueError(f"{served} lets the system choose the port: set one in POLLCAST_HTTP")
    if not is_unspecified(host):
        return (host,), port
    return (("127.0.0.1", "::1") if ":" in host else ("127.0.0.1",)), port


def answer(hosts: Sequence[str], port: int) -> tuple[int, str]:
    """Return the status and the body of the service's `/readyz`. Raises OSError or HTTPException without one."""
    *others, last = hosts
    for host in others:
        with contextlib.suppress(OSError):  # a container may lack IPv4
            return _ask(host, port)
    return _ask(last, port)


def _ask(host: str, port: int) -> tuple[int, str]:
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        return response.status, response.read().decode("utf-8", "replace")
    finally:
        connection.close()


def main(first: Path = FIRST, environment: Mapping[str, str] = os.environ) -> int:
    """Check the service, print what it answers or why it does not, and return the exit status."""
    try:
        arguments = first.read_bytes().decode("utf-8", "replace").split("\0")
        status, text = answer(*reachable(address(arguments, environment)))
    except (OSError, LookupError, ValueError, http.client.HTTPException) as error:
        sys.stdout.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{text}\n")
    return 0 if status == http.client.OK else 1


if __name__ == "__main__":
    raise SystemExit(main())
