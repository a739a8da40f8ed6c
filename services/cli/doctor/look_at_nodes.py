"""Observation of the nodes: whether each answers from here, by HTTP and by gRPC, and what it says."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import grpc
import grpc.aio
import orjson
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pollcast.services.cli.doctor.http_get import get, in_words
from pollcast.services.cli.doctor.observations import NodeSeen
from pollcast.services.coordination.keys import NodeRecord
from pollcast.services.process.settings import ServiceSettings
from pollcast.services.serving import rpc

NODE_SECONDS = 2.0
"""Time that a node has to answer one request, in seconds."""

AT_ONCE = 50
"""Maximum number of nodes that are asked at a time."""

FINDING = re.compile(rb'^pollcast_coordinator_findings\{kind="([^"]+)"\} (\S+)', re.MULTILINE)


async def look_at_nodes(records: list[tuple[NodeRecord, str | None]], settings: ServiceSettings) -> list[NodeSeen]:
    """Return what is seen of each node. Each record comes with the hash of the node's catalogue."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def look(record: NodeRecord, catalogue: str | None) -> NodeSeen:
        async with turn:
            by_http, by_grpc = await asyncio.gather(_by_http(record), _by_grpc(record, settings))
        return NodeSeen(record, catalogue, **by_http, **by_grpc)

    return await asyncio.gather(*(look(*each) for each in records))


async def _by_http(record: NodeRecord) -> dict[str, Any]:
    """Return the fields of NodeSeen that HTTP tells."""
    if record.http is None:
        return {}
    try:
        answer = await get(record.http, "/readyz", NODE_SECONDS)
        said = orjson.loads(answer.body)
        if not isinstance(said, dict):
            raise ValueError("what answers there is not Pollcast")
        seen: dict[str, Any] = {"ready": answer.status == 200, "readiness": said, "clock_offset": answer.clock_offset}
        if record.role == "coordinator":
            metrics = await get(record.http, "/metrics", NODE_SECONDS)
            found = {kind.decode(): int(float(number)) for kind, number in FINDING.findall(metrics.body)}
            seen["findings"] = {kind: number for kind, number in found.items() if number}
    except orjson.JSONDecodeError:
        return {"http_problem": "what answers there is not Pollcast"}
    except (OSError, ValueError) as error:
        return {"http_problem": in_words(error)}
    return seen


async def _by_grpc(record: NodeRecord, settings: ServiceSettings) -> dict[str, Any]:
    """Return the fields of NodeSeen that gRPC tells."""
    if record.grpc is None:
        return {}
    async with rpc.channel(record.grpc, settings) as channel:
        try:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            status = (await stub.Check(health_pb2.HealthCheckRequest(), timeout=NODE_SECONDS)).status
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                return {"grpc_problem": "it does not answer"}
            return {"grpc_problem": plain(error.details() or error.code().name)}
    return {"serving": status == health_pb2.HealthCheckResponse.SERVING}


def plain(details: str) -> str:
    """Return what gRPC says about a connection that fails, without the words around it."""
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return "its certificate is not of the authority in POLLCAST_TLS_CA, or not of this host"
    if "WRONG_VERSION_NUMBER" in details:
        return "it speaks no TLS, and POLLCAST_TLS_CA is set here"
    last = details.rpartition("last error: ")[2]
    if "Connection refused" in last:
        return "it refuses connections"
    if "Socket closed" in last or "Connection reset" in last:
        return "it closes the connection: it may require TLS (POLLCAST_TLS_CERT, _KEY and _CA)"
    if "address lookup failed" in last:
        return "its name is not known here"
    if "http2 header" in last or "Failed parsing HTTP/2" in last:
        return "what answers there is not Pollcast"
    return re.sub(r"^(UNKNOWN|UNAVAILABLE): ", "", last)
