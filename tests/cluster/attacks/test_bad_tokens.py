"""Attacks with tokens: none of them opens a socket, a request or a stream, and none renews a socket."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import time

import grpc
import grpc.aio
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from pollcast.services.serving.http_guard import MAX_REQUEST_BYTES
from pollcast.v1 import live_pb2, live_pb2_grpc
from tests.support.cluster import Cluster
from tests.support.hostile import (
    AUDIENCE,
    ISSUER,
    SECRET,
    http,
    join,
    joined,
    refused_with,
    reply_to,
    socket_url,
    token,
    unsigned,
    until_closed,
)

GRACE_SECONDS = 10.0
"""Time that a gateway leaves to renew an expired token."""

RSA = rsa.generate_private_key(65537, 2048)
GOOD = {"sub": "alice", "aud": AUDIENCE, "iss": ISSUER, "exp": int(time.time()) + 3600}

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
    for path, accept in (
        ("/live/beat", "application/json"),
        ("/live/beat", "text/event-stream"),
        ("/openapi.json", ""),
    ):
        status, headers, body = await http(gateway, path, bearer | {"Accept": accept})
        assert (status, body["reason"]) == (401, "unauthorized")
        assert headers["www-authenticate"] == "Bearer"
        assert not bad or bad not in str(body)
    if not bad or len(bad) < 6000:
        address = running.grpc("gateway")
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
    assert await refused_with(gateway, long) == 403  # the parser of handshakes takes no line as long as this
    huge = "x" * (MAX_REQUEST_BYTES + 1)
    assert (await http(gateway, "/live/beat", {"Authorization": f"Bearer {huge}"}))[0] == 431
    assert (await http(gateway, f"/live/beat?token={huge}"))[0] == 431


async def test_the_subprotocol_carries_a_good_token_and_a_bad_one_is_refused(gateway: str) -> None:
    def offered(it: str) -> list[Subprotocol]:
        encoded = base64.b64encode(it.encode()).decode().rstrip("=")
        return [Subprotocol("phoenix"), Subprotocol(f"base64url.bearer.phx.{encoded}")]

    assert await refused_with(gateway, None, subprotocols=offered(token("x" * 40))) == 403
    assert await refused_with(gateway, None, subprotocols=[Subprotocol("base64url.bearer.phx.x")]) == 403
    async with connect(socket_url(gateway, None), subprotocols=offered(token())) as socket:
        assert socket.subprotocol == "phoenix"


async def test_neither_a_bad_token_nor_one_of_another_subject_renews_a_socket(gateway: str) -> None:
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


async def test_a_connection_ends_after_the_grace_period_unless_its_token_is_renewed(
    gateway: str, running: Cluster
) -> None:
    address = running.grpc("gateway")
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
        assert (await events)[0] == 200  # the stream ended
