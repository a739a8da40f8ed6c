"""Attacks on a cluster that asks for tokens. Each is answered with the contract's error, and beside each of them a
well-behaved client goes on being told of every change, by deltas, on the connection that it has."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import math
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import grpc.aio
import jwt
import psutil
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from pollcast.services.coordination.etcd import Etcd
from pollcast.services.process.settings import EtcdSettings
from pollcast.services.serving.http_guard import MAX_REQUEST_BYTES
from pollcast.v1 import live_pb2, live_pb2_grpc
from tests.support.cluster import Cluster, Served
from tests.support.hostile import (
    AUDIENCE,
    ISSUER,
    SECRET,
    Neighbour,
    http,
    join,
    joined,
    raw,
    reply_to,
    socket_url,
    token,
    unsigned,
    until_closed,
)
from tests.support.waiting import eventually

TYPES = {
    "text": "x",
    "int": "1",
    "float": "1.5",
    "numeric": "1.5",
    "bool": "true",
    "date": "2026-01-31",
    "timestamptz": "2026-01-31T12:00:00Z",
    "uuid": "6f1c4c1e-6e2b-4b0e-9b0a-2f5d3c1a7e10",
}

CATALOG = """
[queries.beat]
sql = "select id, n from beat"
key = ["id"]
interval = "50ms"

[queries.mine]
sql = "select id, tenant from notes where tenant = %(tenant)s and id >= %(least)s order by id"
key = ["id"]
interval = "100ms"
linger = "1s"
[queries.mine.params]
tenant = { type = "text", claim = "tenant_id" }
least = { type = "int", default = 0 }

[queries.sales]
sql = "select 1 as one"
roles = ["sales"]

[queries.echo_text]
sql = "select %(value)s as value"
interval = "100ms"
linger = "1s"
[queries.echo_text.params]
value = { type = "text", max_length = 4000 }
""" + "".join(
    f"""
[queries.typed_{kind}]
sql = "select %(value)s as value"
[queries.typed_{kind}.params]
value = "{kind}"
"""
    for kind in TYPES
    if kind != "text"
)

MAX_TOPICS = 20
MAX_FRAME = 4096
MAX_CONNECTIONS = 40
JOIN_RATE = 30
GRACE_SECONDS = 10.0


SERVED = Served(
    CATALOG,
    tables=[
        "create table beat (id int primary key, n int)",
        "insert into beat values (1, 0)",
        "create table notes (id int primary key, tenant text)",
        "insert into notes values (1, 'acme'), (2, 'globex')",
    ],
    flags=["--gateways", "1", "--pollers", "1"],
    environment={
        "POLLCAST_AUTH_SECRET": SECRET,
        "POLLCAST_AUTH_AUDIENCE": AUDIENCE,
        "POLLCAST_AUTH_ISSUER": ISSUER,
        "POLLCAST_ORIGINS": "https://app.example.org",
        "POLLCAST_MAX_TOPICS": str(MAX_TOPICS),
        "POLLCAST_MAX_FRAME": str(MAX_FRAME),
        "POLLCAST_MAX_CONNECTIONS": str(MAX_CONNECTIONS),
        "POLLCAST_JOIN_RATE": str(JOIN_RATE),
    },
)


@pytest.fixture
def gateway(running: Cluster) -> str:
    return running.gateway()


@pytest.fixture(scope="module")
async def neighbour(running: Cluster, anyio_backend: str) -> AsyncIterator[Neighbour]:
    """One and the same beside all attacks."""
    with psycopg.connect(running.database_url, autocommit=True) as database:
        async with Neighbour.beside(running.gateway(), database) as client:
            yield client


@pytest.fixture(autouse=True)
async def unharmed(neighbour: Neighbour) -> AsyncIterator[None]:
    """After each attack the neighbour still notices what changes."""
    yield
    await neighbour.notices()


async def refused_with(gateway: str, bad: str | None, **options: Any) -> int:
    """The status of a WebSocket's handshake that is refused."""
    with pytest.raises(InvalidStatus) as refused:
        async with connect(socket_url(gateway, bad), **options):
            pass
    return refused.value.response.status_code


# --- tokens -------------------------------------------------------------------------------------------------------

RSA = rsa.generate_private_key(65537, 2048)
GOOD = {"sub": "alice", "aud": AUDIENCE, "iss": ISSUER, "exp": int(time.time()) + 3600}
PUBLIC = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

BAD_TOKENS = {
    "none at all": None,
    "empty": "",
    "forged: signed with another secret": token("another secret of thirty-two bytes or more"),
    "forged: the payload exchanged": ".".join(
        [token().split(".")[0], unsigned({}, GOOD | {"sub": "root"}).split(".")[1], token().split(".")[2]]
    ),
    "expired": token(exp=int(time.time()) - 1),
    "not valid yet": token(nbf=int(time.time()) + 3600),
    "for another audience": token(aud="somebody else"),
    "for no audience": token(aud=None),
    "from another issuer": token(iss="somebody else"),
    "algorithm none": unsigned({"alg": "none", "typ": "JWT"}, GOOD),
    "algorithm None": unsigned({"alg": "None"}, GOOD),
    "algorithm nOnE with a signature": unsigned({"alg": "nOnE"}, GOOD, token().split(".")[2]),
    "no algorithm": unsigned({"typ": "JWT"}, GOOD),
    "another algorithm: RS256": jwt.encode(GOOD, RSA, algorithm="RS256"),
    "another algorithm: HS512": jwt.encode(GOOD, SECRET, algorithm="HS512"),
    "a key of its own (jwk)": jwt.encode(
        GOOD, RSA, algorithm="RS256", headers={"jwk": json.loads(jwt.get_algorithm_by_name("RS256").to_jwk(RSA))}
    ),
    "a key elsewhere (jku, kid)": jwt.encode(
        GOOD, RSA, algorithm="RS256", headers={"jku": "http://127.0.0.1:1/", "kid": "../../etc/passwd"}
    ),
    "a critical extension": jwt.encode(GOOD, SECRET, algorithm="HS256", headers={"crit": ["exp"], "exp": 1}),
    "an expiry that is no number": unsigned({"alg": "HS256"}, GOOD | {"exp": "never"}, "x"),
    "rubbish": "e30.e30.e30",
    "rubbish in base64": "AAAA.////.====",
    "dots": "....",
    "of 7 KB": token(padding="x" * 5000) + "x",
}


@pytest.mark.parametrize("bad", BAD_TOKENS.values(), ids=BAD_TOKENS.keys())
async def test_a_bad_token_opens_nothing(gateway: str, running: Cluster, bad: str | None) -> None:
    assert await refused_with(gateway, bad) == 403
    bearer = {"Authorization": f"Bearer {bad}"} if bad else {}
    for path, accept in (("/live/beat", "application/json"), ("/live/beat", "text/event-stream"), ("/api/queries", "")):
        status, headers, body = await http(gateway, path, bearer | {"Accept": accept})
        assert (status, body["reason"]) == (401, "unauthorized")
        assert headers["www-authenticate"] == "Bearer"
        assert not bad or bad not in str(body)
    if not bad or len(bad) < 6000:
        address = running.nodes("gateway")[0].grpc
        assert address is not None
        async with grpc.aio.insecure_channel(address) as channel:
            call = live_pb2_grpc.LiveQueryStub(channel).Watch(
                live_pb2.WatchRequest(topic="beat"), metadata=[("authorization", f"Bearer {bad or ''}")]
            )
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call.read()
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_token_that_is_too_long_is_refused(gateway: str) -> None:
    long = token(padding="x" * 9000)
    assert (await http(gateway, "/live/beat", {"Authorization": f"Bearer {long}"}))[0] == 200
    assert await refused_with(gateway, long) == 403  # a handshake has no room for it
    huge = "x" * (MAX_REQUEST_BYTES + 1)
    assert (await http(gateway, "/live/beat", {"Authorization": f"Bearer {huge}"}))[0] == 431
    assert (await http(gateway, f"/live/beat?token={huge}"))[0] == 431


async def test_the_subprotocol_carries_a_token_and_no_bad_one(gateway: str) -> None:
    def offered(it: str) -> list[Subprotocol]:
        encoded = base64.b64encode(it.encode()).decode().rstrip("=")
        return [Subprotocol("phoenix"), Subprotocol(f"base64url.bearer.phx.{encoded}")]

    assert await refused_with(gateway, None, subprotocols=offered(token("x" * 40))) == 403
    assert await refused_with(gateway, None, subprotocols=[Subprotocol("base64url.bearer.phx.x")]) == 403
    async with connect(socket_url(gateway, None), subprotocols=offered(token())) as socket:
        assert socket.subprotocol == "phoenix"


async def test_a_bad_token_does_not_renew_a_socket_and_another_subject_neither(gateway: str) -> None:
    async with joined(gateway, "live:mine", token(tenant_id="acme")) as (socket, _):
        for bad, reason in (
            (token("x" * 40, tenant_id="acme"), "unauthorized"),
            (token(tenant_id="acme", exp=1), "unauthorized"),
            (token(tenant_id="acme", sub="mallory"), "forbidden"),
            (token(tenant_id="globex"), "forbidden"),
            (token(), "forbidden"),
            (17, "invalid_payload"),
        ):
            await socket.send(json.dumps(["1", "r", "live:mine", "access_token", {"token": bad}]))
            assert (await reply_to(socket, "r"))["response"]["reason"] == reason
        await socket.send(json.dumps(["1", "r", "live:mine", "access_token", {"token": token(tenant_id="acme")}]))
        assert (await reply_to(socket, "r"))["status"] == "ok"


async def test_what_an_expired_token_opened_ends_after_the_grace_unless_renewed(gateway: str, running: Cluster) -> None:
    address = running.nodes("gateway")[0].grpc
    assert address is not None
    async with asyncio.timeout(40), grpc.aio.insecure_channel(address) as channel, asyncio.TaskGroup() as tasks:
        await channel.channel_ready()
        soon = token(exp=math.ceil(time.time()) + 3)
        stream = live_pb2_grpc.LiveQueryStub(channel).Watch(
            live_pb2.WatchRequest(topic="echo_text?value=a"), metadata=[("authorization", f"Bearer {soon}")]
        )
        events = tasks.create_task(
            http(gateway, "/live/echo_text?value=b", {"Authorization": f"Bearer {soon}", "Accept": "text/event-stream"})
        )
        async with joined(gateway, "live:beat", soon) as (dies, _), joined(gateway, "live:beat", soon) as (lives, _):
            await stream.read()
            await lives.send(json.dumps(["1", "r", "live:beat", "access_token", {"token": token()}]))
            assert (await reply_to(lives, "r"))["status"] == "ok"
            assert await until_closed(dies) == 4001
            assert time.time() > jwt.decode(soon, options={"verify_signature": False})["exp"] + GRACE_SECONDS - 1
            assert (await join(lives, "live:echo_text?value=c"))["status"] == "ok"
        assert await stream.code() is grpc.StatusCode.UNAUTHENTICATED
        assert (await events)[0] == 200  # it ended


# --- pages of somebody else ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "https://app.example.org.evil.example",
        "https://evil.example/https://app.example.org",
        "http://app.example.org",
        "https://app.example.org:444",
        "https://APP.example.org@evil.example",
        "null",
        "",
        "http://[",
        "https://app。example。org",
    ],
)
async def test_a_page_of_another_origin_is_refused_even_with_a_good_token(gateway: str, origin: str) -> None:
    sent = origin.encode().decode("latin-1")
    handshake = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    handshake |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Origin": sent}
    status, _, body = await http(gateway, f"/socket/websocket?vsn=2.0.0&token={token()}", handshake)
    assert (status, body["reason"]) == (403, "forbidden")
    for path in ("/live/beat", "/api/queries"):
        bearer = {"Authorization": f"Bearer {token()}", "Origin": sent, "Accept": "text/event-stream"}
        status, headers, body = await http(gateway, path, bearer)
        assert (status, body["reason"]) == (403, "forbidden")
        assert "access-control-allow-origin" not in headers
        status, headers, _ = await http(gateway, path, {"Origin": sent}, "OPTIONS")
        assert status == 403
        assert "access-control-allow-origin" not in headers


async def test_a_page_of_an_allowed_origin_reads_results_and_errors(gateway: str) -> None:
    page = {"Origin": "https://app.example.org"}
    for path, bearer, expected in (("/live/beat", token(), 200), ("/live/beat", "x", 401), ("/live/x", token(), 404)):
        status, headers, _ = await http(gateway, path, page | {"Authorization": f"Bearer {bearer}"})
        assert (status, headers["access-control-allow-origin"]) == (expected, page["Origin"])
    status, headers, _ = await http(gateway, "/live/beat", page, "OPTIONS")
    assert status == 204
    assert "authorization" in headers["access-control-allow-headers"]
    async with connect(socket_url(gateway, token()), origin="https://app.example.org"):  # type: ignore[arg-type]
        pass


# --- into another tenant's topic ----------------------------------------------------------------------------------

SMUGGLED = [
    "mine?tenant=globex",
    "mine?%74enant=globex",
    "mine?tenant=",
    "mine?tenant",
    "mine?least=0&tenant=globex",
    "mine?least=0&least=0",
    "mine?least=0&%6Ceast=1",
    "mine?least=0%26tenant%3Dglobex",
    "mine?least=0%00&tenant=globex",
    "mine?least=0;tenant=globex",
    "mine?TENANT=globex",
    "mine?tenant%00=globex",
    "mine?ten%C3%A4nt=globex",
    "mine?tеnant=globex",  # a Cyrillic letter
    "mine?tenant_id=globex",
    "mine?tenant[]=globex",
    "mine?least=%C0%B0",
    "mine?least=%ED%A0%80",
    "mine?least=%",
    "mine?least=%zz",
    "mine?least=１",  # a fullwidth digit
    "mine?least=" + "0" * 9000,
    "mine?" + "&".join(f"p{number}=1" for number in range(500)),
    "mine?tenant=" + "globex" * 2000,
]


@pytest.mark.parametrize("topic", SMUGGLED, ids=[topic[:40] for topic in SMUGGLED])
async def test_nothing_that_a_client_spells_reaches_another_tenant(gateway: str, topic: str) -> None:
    bearer = token(tenant_id="acme")
    async with connect(socket_url(gateway, bearer)) as socket:
        if len(topic) < MAX_FRAME - 100:
            assert (await join(socket, f"live:{topic}"))["response"]["reason"] == "invalid_params"
    query, _, tail = topic.partition("?")
    path = f"/live/{query}?{quote(tail, safe='%=&[];')}"
    status, _, body = await http(gateway, path, {"Authorization": f"Bearer {bearer}"})
    assert (status, body["reason"]) == (400, "invalid_params")


@pytest.mark.parametrize(
    "name", ["mіne", "mine\0", "mine ", "MINE", "mine/../mine", "mine?tenant=globex", "", ".", "%6dine", "mine#x"]
)
async def test_no_lookalike_of_a_query_is_taken_for_it(gateway: str, name: str) -> None:
    bearer = token(tenant_id="acme")
    async with connect(socket_url(gateway, bearer)) as socket:
        reason = (await join(socket, f"live:{name}"))["response"]["reason"]
        assert reason == ("invalid_params" if "?" in name else "unknown_query")
    path = f"/live/{quote(name, safe='')}" if name not in ("", ".") else "/live/x"
    assert (await http(gateway, path, {"Authorization": f"Bearer {bearer}"}))[0] == 404


async def test_two_tenants_on_the_same_query_share_nothing(gateway: str) -> None:
    canonical = set()
    for tenant, rows in (("acme", [1]), ("globex", [2]), ("", []), ("acme&least=9", []), ("acme%", [])):
        async with joined(gateway, "live:mine", token(tenant_id=tenant)) as (socket, reply):
            canonical.add(reply["response"]["topic"])
            snapshot = json.loads(await socket.recv())
            while snapshot[3] != "snapshot":
                snapshot = json.loads(await socket.recv())
            assert [row["id"] for row in snapshot[4]["rows"]] == rows
    assert len(canonical) == 5


@pytest.mark.parametrize(
    "claims", [{}, {"tenant_id": None}, {"tenant_id": ["acme"]}, {"tenant_id": {"a": 1}}, {"tenant_id": "a" * 300}]
)
async def test_a_claim_that_is_absent_or_no_value_opens_nothing(gateway: str, claims: dict[str, object]) -> None:
    async with joined(gateway, "live:mine", token(**claims)) as (_, reply):
        assert reply["response"]["reason"] == "forbidden"
        assert "acme" not in str(reply)
    status, _, body = await http(gateway, "/live/mine", {"Authorization": f"Bearer {token(**claims)}"})
    assert (status, body["reason"]) == (403, "forbidden")


async def test_a_role_can_not_be_claimed_by_the_client(gateway: str) -> None:
    for roles in ([], ["sale"], ["SALES"], "sal es", ["sales "]):
        async with joined(gateway, "live:sales", token(roles=roles)) as (socket, reply):
            assert reply["response"]["reason"] == "forbidden"
            assert (await join(socket, "live:sales", {"roles": ["sales"]}))["response"]["reason"] == "forbidden"
    async with joined(gateway, "live:sales", token(roles=["sales"])) as (_, reply):
        assert reply["status"] == "ok"


# --- into the database and into etcd ------------------------------------------------------------------------------

INJECTIONS = [
    "'; drop table notes; --",
    "' or '1'='1",
    "1); select pg_sleep(60); --",
    "1 union select 1",
    "$$; drop table notes; $$",
    "\\'; drop table notes; --",
    "%(tenant)s",
    "%s %% $1 {0}",
    "p.i",
    "/* */",
    "ʼ; drop table notes",
]


@pytest.mark.parametrize("kind", TYPES)
async def test_sql_in_a_value_is_a_value(gateway: str, running: Cluster, kind: str) -> None:
    bearer = token()
    query = "echo_text" if kind == "text" else f"typed_{kind}"
    async with connect(socket_url(gateway, bearer)) as socket:
        for text in INJECTIONS:
            for value in (text, TYPES[kind] + text):
                if kind == "text":
                    status, _, body = await http(
                        gateway, f"/live/{query}?value={quote(value)}", {"Authorization": f"Bearer {bearer}"}
                    )
                    assert (status, body["rows"]) == (200, [{"value": value}])
                else:
                    reply = await join(socket, f"live:{query}?value={quote(value)}")
                    while reply["response"]["reason"] == "too_many_joins":
                        reply = await join(socket, f"live:{query}?value={quote(value)}")
                    assert reply["response"]["reason"] == "invalid_params"
    with psycopg.connect(running.database_url) as database:
        assert database.execute("select count(*) from notes").fetchone() == (2,)


@pytest.mark.parametrize(
    "value",
    [
        "../../owners/beat",
        "/pollcast/leader",
        "%2F..%2F..",
        "a/b?c=d",
        "\x01\x7f",
        "..",
        "\N{FULLWIDTH SOLIDUS}x",
        "é",
        "💥",
    ],
)
async def test_no_topic_leaves_its_place_in_etcd(gateway: str, running: Cluster, value: str) -> None:
    topic = f"echo_text?value={quote(value, safe='')}"
    async with (
        Etcd.open(EtcdSettings(etcd=tuple(running.etcd))) as etcd,
        joined(gateway, f"live:{topic}", token()) as (_, reply),
    ):
        assert reply["response"]["topic"] == topic
        place = f"{running.namespace}/demand/{topic}/"

        async def demanded() -> bool:
            return bool((await etcd.range(place)).kvs)

        await eventually(demanded)
        for kv in (await etcd.range("/")).kvs:
            parts = kv.key.removeprefix(f"{running.namespace}/").split("/")
            shape = {"nodes": 3, "demand": 3, "owners": 2, "leader": 1}
            assert kv.key.startswith(f"{running.namespace}/")
            assert len(parts) == shape[parts[0]], kv.key


# --- floods -------------------------------------------------------------------------------------------------------


async def test_joins_beyond_the_rate_are_refused_and_topics_beyond_the_limit(gateway: str) -> None:
    async with connect(socket_url(gateway, token())) as socket:
        for number in range(300):
            await socket.send(json.dumps(["1", f"{number}", f"live:echo_text?value={number}", "phx_join", {}]))
        reasons = []
        for number in range(300):
            answer = await reply_to(socket, f"{number}")
            reasons.append(answer["response"].get("reason", "ok"))
        socket.transport.abort()  # rather than take what its topics have to say
    assert reasons[:MAX_TOPICS] == ["ok"] * MAX_TOPICS
    assert reasons[MAX_TOPICS] == "too_many_topics"
    assert set(reasons) == {"ok", "too_many_topics", "too_many_joins"}
    assert reasons.count("too_many_joins") > 100


async def test_a_flood_of_frames_is_answered_and_harms_nobody(gateway: str, neighbour: Neighbour) -> None:
    async with connect(socket_url(gateway, token())) as socket, asyncio.TaskGroup() as tasks:

        async def flood() -> None:
            for number in range(20_000):
                await socket.send(f'[null,"{number}","phoenix","heartbeat",{{}}]')

        async def answers() -> None:
            await reply_to(socket, "19999", 60.0)

        tasks.create_task(flood())
        answered = tasks.create_task(answers())
        while not answered.done():
            await neighbour.notices()


MOST_BYTES = 256 * 1024 * 1024
BLOCKED_SECONDS = 2.0


def memory_of(running: Cluster) -> int:
    """Bytes of the gateway that are resident."""
    return int(psutil.Process(running.nodes("gateway")[0].pid).memory_info().rss)


async def test_a_flood_of_pings_from_a_peer_that_never_reads_is_bounded(
    gateway: str, running: Cluster, neighbour: Neighbour
) -> None:
    host, _, port = gateway.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    writer.write(
        f"GET /socket/websocket?vsn=2.0.0&token={token()} HTTP/1.1\r\nHost: {gateway}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    assert b"101" in await reader.readline()
    pings = (b"\x89\xfd\0\0\0\0" + b"x" * 125) * 500
    before = memory_of(running)

    async def flood() -> None:
        for _ in range(MOST_BYTES // len(pings)):
            writer.write(pings)
            await asyncio.wait_for(writer.drain(), BLOCKED_SECONDS)

    with pytest.raises(TimeoutError):  # the gateway takes no more: what the kernel has room for is all
        await flood()
    assert memory_of(running) - before < 8 * 1024 * 1024
    await neighbour.notices()
    writer.transport.abort()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\xfe\xff\xff\0\0\0\0", 1009),  # a frame that says it has 64 KiB
        (b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0", 1009),  # one of 8 EiB
        (b"\x82\x80\0\0\0\0", 1003),  # a binary frame
        (b"\x81\x00", 1002),  # not masked
        (b"\xf1\x80\0\0\0\0", 1002),  # reserved bits
        (b"\x81\x82\0\0\0\0\xff\xff", 1007),  # no UTF-8
        (b"\x81\x82\0\0\0\0[]", 1007),  # no message
        (b"\x81\xfe\x0f\xa0\0\0\0\0" + b"[" * 4000, 1007),  # nested without end
    ],
)
async def test_a_frame_that_is_none_closes_its_socket_with_the_right_code(gateway: str, data: bytes, code: int) -> None:
    async with connect(socket_url(gateway, token())) as socket:
        socket.transport.write(data)
        assert await until_closed(socket) == code


async def test_connections_beyond_the_limit_are_refused_with_503_and_those_there_stay(gateway: str) -> None:
    async with contextlib.AsyncExitStack() as held:
        for _ in range(MAX_CONNECTIONS - 1):  # and the neighbour
            await held.enter_async_context(connect(socket_url(gateway, token())))
        assert await refused_with(gateway, token()) == 503
        bearer = {"Authorization": f"Bearer {token()}"}
        for accept in ("text/event-stream", "application/json"):
            status, _, body = await http(gateway, "/live/beat", bearer | {"Accept": accept})
            assert (status, body["reason"]) == (503, "too_many_connections")
        assert (await http(gateway, "/healthz"))[0] == 200


# --- half-open doors ----------------------------------------------------------------------------------------------


async def test_slow_requests_are_cut_off_and_hold_nobody_up(gateway: str, neighbour: Neighbour) -> None:
    host, _, port = gateway.rpartition(":")
    starts = [
        b"",
        b"GET /socket/websocket?vsn=2.0.0 HTTP/1.1\r\nHost: x\r\nUpgrade: web",
        b"GET /live/beat HTTP/1.1\r\nHost: x\r\n",
        b"POST /live/beat HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nx",
        b"\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + b"GET /healthz HTTP/1.1\r\nHos",
    ]
    opened = [await asyncio.open_connection(host, int(port)) for _ in range(20) for _ in starts]
    for (_, writer), start in zip(opened, starts * 20, strict=True):
        writer.write(start)
    async with connect(socket_url(gateway, token())) as socket:
        assert (await join(socket, "live:beat"))["status"] == "ok"
    await neighbour.notices()

    async def drip(writer: asyncio.StreamWriter) -> None:
        """A byte now and then, so that it is never silent."""
        while not writer.is_closing():
            writer.write(b"x")
            await asyncio.sleep(0.5)

    async with asyncio.timeout(40), asyncio.TaskGroup() as tasks:
        drips = [tasks.create_task(drip(writer)) for _, writer in opened[1:3]]
        for reader, writer in opened:
            with contextlib.suppress(ConnectionError):
                await reader.read()  # until the gateway closes it
            writer.close()
        for dripping in drips:
            dripping.cancel()


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /live/beat HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 20_000 + b"\r\n", 431),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET /live/beat HTTP/1.1\r\nHost: x\r\nConnection: close\r\nOrigin: http://[\r\n\r\n", 403),
        (b"TRACE /live/beat HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
        (b"GET /live/%00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 401),
    ],
    ids=["headers", "path", "TLS", "version", "origin", "method", "NUL"],
)
async def test_a_request_that_is_none_gets_a_clear_error(gateway: str, request_line: bytes, status: int) -> None:
    assert (await raw(gateway, request_line))[0] == status


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("GET /live/mine?least=ü HTTP/1.1\r\nHost: x\r\n\r\n".encode(), "invalid_params"),
        (b"GET /live/mine?least=a b HTTP/1.1\r\nHost: x\r\n\r\n", "invalid_params"),
        (b"GET /live/mine?least=\xff HTTP/1.1\r\nHost: x\r\n\r\n", "invalid_params"),
        (b"GET /live/mine HTTP/1.1\r\nHost: x\r\nBad Header\r\n\r\n", "bad_request"),
        (b"no request\r\n\r\n", "bad_request"),
        (b"GET /live/beat HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "bad_request"),
    ],
)
async def test_what_can_not_be_parsed_gets_json(gateway: str, data: bytes, reason: str) -> None:
    status, headers, body = await raw(gateway, data)
    assert (status, headers["content-type"], body["reason"]) == (400, "application/json", reason)
    assert body["detail"]


def test_no_attack_left_a_secret_or_an_unexpected_error_in_a_log(running: Cluster) -> None:
    """Last, so that all of them have been here."""
    logs = {file.name: file.read_text(errors="replace") for file in Path(running.data_dir, "logs").iterdir()}
    for name, text in logs.items():
        assert SECRET not in text
        assert "eyJ" not in text, name
        assert "globex" not in text
        assert "Traceback" not in text, name
