"""Observation of etcd: each endpoint by gRPC and by HTTP, and one write that leaves nothing behind.

A member's status is read without its help: StatusResponse of the `etcd3` module lacks the fields that etcd has had
since 3.4, so they are taken from the message's unknown fields.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import time
from typing import Any, cast

import grpc
import grpc.aio
import orjson
from etcd3 import etcdrpc
from google.protobuf.unknown_fields import UnknownFieldSet

from pollcast.services.cli.doctor.http_get import get, in_words
from pollcast.services.cli.doctor.observations import EtcdSeen, Member, Write
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.endpoints import Endpoint, credentials_of, metadata
from pollcast.services.coordination.keys import Keys
from pollcast.services.coordination.login import TURNED_OFF
from pollcast.services.errors import EtcdError
from pollcast.services.process.addresses import HostPort
from pollcast.services.process.settings import EtcdSettings

MEMBER_SECONDS = 3.0
"""Time that one endpoint has to answer everything, in seconds."""

HTTP_SECONDS = 2.0
"""Time that one endpoint has to answer over HTTP, in seconds."""

READS = 3
"""Number of reads that are timed; the median counts."""

LEASE_SECONDS = 5
"""Time to live of the lease that is granted and revoked to time a write, in seconds."""

ERRORS, QUOTA = 8, 12
"""Numbers of the fields `errors` and `dbSizeQuota` of StatusResponse."""

QUOTA_METRIC = re.compile(rb"^etcd_server_quota_backend_bytes (\S+)", re.MULTILINE)


async def look_at_etcd(settings: EtcdSettings) -> EtcdSeen:
    """Return what is seen of etcd, within MEMBER_SECONDS."""
    looked = await asyncio.gather(*(_look_at_endpoint(address, settings) for address in sorted(set(settings.etcd))))
    members = [number for _, number in looked if number is not None]
    return EtcdSeen(tuple(member for member, _ in looked), max(members, default=None))


async def look_at_write(etcd: Etcd) -> Write:
    """Grant a lease and revoke it: etcd writes both to the disks of a majority, and nothing is left."""
    began = time.monotonic()
    try:
        lease, _ = await etcd.lease_grant(LEASE_SECONDS)
        took = time.monotonic() - began
        with contextlib.suppress(EtcdError):  # it ends by itself
            await etcd.lease_revoke(lease)
    except EtcdError as error:
        return Write(problem=error.detail)
    return Write(seconds=took)


async def _look_at_endpoint(address: HostPort, settings: EtcdSettings) -> tuple[Member, int | None]:
    """Return what is seen of one endpoint, and the number of members that it knows."""
    by_http = asyncio.create_task(_ask_http(address, settings))
    endpoint = Endpoint(address, credentials_of(settings))
    try:
        async with asyncio.timeout(MEMBER_SECONDS):
            member, members = await _ask(endpoint, settings)
    except (TimeoutError, grpc.aio.AioRpcError) as error:
        member, members = Member(address, problem=_words(error)), None
    finally:
        await endpoint.channel.close(None)
    problem, offset, quota = await by_http
    if member.problem is not None:
        # gRPC has the same words for whatever is wrong on the way; those of a TLS handshake or a socket say more.
        return Member(address, problem=problem or member.problem), None
    fields = {name: getattr(member, name) for name in member.__dataclass_fields__}
    return Member(**fields | {"clock_offset": offset, "quota_bytes": member.quota_bytes or quota}), members


async def _ask(endpoint: Endpoint, settings: EtcdSettings) -> tuple[Member, int | None]:
    """Ask the endpoint over gRPC. Raises AioRpcError when it does not answer at all."""
    status = await etcdrpc.MaintenanceStub(endpoint.channel).Status(etcdrpc.StatusRequest())
    newer: list[Any] = list(cast(Any, UnknownFieldSet(status)))
    read_seconds, read_problem, members = None, None, None
    try:
        token = await _log_in(endpoint, settings)
        read_seconds = await _time_reads(endpoint, settings.namespace, token)
        listed = await etcdrpc.ClusterStub(endpoint.channel).MemberList(
            etcdrpc.MemberListRequest(), metadata=metadata(token)
        )
        members = len(listed.members)
    except grpc.aio.AioRpcError as error:
        if read_seconds is None:
            read_problem = _words(error)
    except TimeoutError:
        read_problem = "it does not answer"
    return Member(
        endpoint.address,
        version=status.version,
        cluster_id=status.header.cluster_id,
        member_id=status.header.member_id,
        leader_id=status.leader,
        stored_bytes=status.dbSize,
        quota_bytes=next((field.data for field in newer if field.field_number == QUOTA), None),
        alarms=tuple(field.data.decode(errors="replace") for field in newer if field.field_number == ERRORS),
        read_seconds=read_seconds,
        read_problem=read_problem,
    ), members


async def _log_in(endpoint: Endpoint, settings: EtcdSettings) -> str | None:
    """Return a token; None without a user, or where etcd has none."""
    if settings.etcd_user is None or settings.etcd_password is None:
        return None
    request = etcdrpc.AuthenticateRequest(name=settings.etcd_user, password=settings.secret("etcd_password")())
    try:
        return str((await endpoint.auth.Authenticate(request)).token)
    except grpc.aio.AioRpcError as error:
        if TURNED_OFF in (error.details() or ""):
            return None
        raise


async def _time_reads(endpoint: Endpoint, namespace: str, token: str | None) -> float:
    """Return the median time of a read that needs the leader."""
    times: list[float] = []
    async with asyncio.timeout(MEMBER_SECONDS / 2):
        for _ in range(READS):
            began = time.monotonic()
            request = etcdrpc.RangeRequest(key=Keys(namespace).leader.encode())
            await endpoint.kv.Range(request, metadata=metadata(token))
            times.append(time.monotonic() - began)
    return sorted(times)[len(times) // 2]


async def _ask_http(address: HostPort, settings: EtcdSettings) -> tuple[str | None, float | None, int | None]:
    """Return why the endpoint does not answer over HTTP, its clock's offset and its quota."""
    try:
        tls = _tls(settings)
        version = await get(address, "/version", HTTP_SECONDS, tls)
    except (OSError, ValueError) as error:
        unencrypted = settings.etcd_ca is None and isinstance(error, ConnectionResetError)
        return in_words(error) + (": it may speak TLS only" if unencrypted else ""), None, None
    if tls is None and b"HTTPS server" in version.body:
        return "it speaks TLS only", None, None
    try:
        orjson.loads(version.body)
    except ValueError:
        return "what answers there is not etcd", None, None
    quota = None
    with contextlib.suppress(OSError, ValueError):
        found = QUOTA_METRIC.search((await get(address, "/metrics", HTTP_SECONDS, tls)).body)
        quota = int(float(found[1])) if found else None
    return None, version.clock_offset, quota


def _tls(settings: EtcdSettings) -> ssl.SSLContext | None:
    if settings.etcd_ca is None:
        return None
    context = ssl.create_default_context(cafile=settings.etcd_ca)
    if settings.etcd_cert is not None:
        context.load_cert_chain(settings.etcd_cert, settings.etcd_key)
    return context


def _words(error: TimeoutError | grpc.aio.AioRpcError) -> str:
    """Return why a call failed, in etcd's words if it has said something."""
    if isinstance(error, TimeoutError):
        return "it does not answer"
    details = (error.details() or error.code().name).removeprefix("etcdserver: ")
    return re.sub(r"^failed to connect to all addresses; last error: (UNKNOWN|UNAVAILABLE): ", "", details)
