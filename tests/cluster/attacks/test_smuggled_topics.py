"""Attacks through the spelling of a topic: no client reaches the rows of another tenant or of another role."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from websockets.asyncio.client import connect

from tests.support.hostile import MAX_FRAME, http, join, joined, socket_url, token

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
    "mine?&",
    "mine?least=0&",
    "mine?&least=0",
]


@pytest.mark.parametrize("topic", SMUGGLED, ids=[topic[:40] for topic in SMUGGLED])
async def test_no_spelling_of_a_topic_reaches_another_tenant(gateway: str, topic: str) -> None:
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
async def test_a_name_that_resembles_a_query_is_refused(gateway: str, name: str) -> None:
    bearer = token(tenant_id="acme")
    async with connect(socket_url(gateway, bearer)) as socket:
        reason = (await join(socket, f"live:{name}"))["response"]["reason"]
        assert reason == ("invalid_params" if "?" in name else "unknown_query")
    path = f"/live/{quote(name, safe='')}" if name not in ("", ".") else "/live/x"
    assert (await http(gateway, path, {"Authorization": f"Bearer {bearer}"}))[0] == 404


async def test_a_topic_has_at_most_eight_spellings_beside_its_canonical_one(gateway: str) -> None:
    bearer = token(tenant_id="acme")
    async with connect(socket_url(gateway, bearer)) as first, connect(socket_url(gateway, bearer)) as second:
        for zeros in range(1, 9):
            assert (await join(first, f"live:mine?least=0{'0' * zeros}"))["status"] == "ok"
        refused = (await join(second, "live:mine"))["response"]
        assert (refused["reason"], refused["detail"][-24:]) == ("invalid_params", 'join "live:mine?least=0"')
        assert (await join(second, "live:mine?least=0"))["status"] == "ok"
        assert (await join(second, "live:mine?least=00"))["status"] == "ok"
    async with connect(socket_url(gateway, bearer)) as third:
        assert (await join(third, "live:mine"))["status"] == "ok"


async def test_tenants_of_the_same_query_share_no_topic_and_no_row(gateway: str) -> None:
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
async def test_a_topic_whose_claim_is_absent_or_unusable_is_forbidden(gateway: str, claims: dict[str, object]) -> None:
    async with joined(gateway, "live:mine", token(**claims)) as (_, reply):
        assert reply["response"]["reason"] == "forbidden"
        assert "acme" not in str(reply)
    status, _, body = await http(gateway, "/live/mine", {"Authorization": f"Bearer {token(**claims)}"})
    assert (status, body["reason"]) == (403, "forbidden")


async def test_only_the_token_grants_a_role(gateway: str) -> None:
    for roles in ([], ["sale"], ["SALES"], "sal es", ["sales "]):
        async with joined(gateway, "live:sales", token(roles=roles)) as (socket, reply):
            assert reply["response"]["reason"] == "forbidden"
            assert (await join(socket, "live:sales", {"roles": ["sales"]}))["response"]["reason"] == "forbidden"
    async with joined(gateway, "live:sales", token(roles=["sales"])) as (_, reply):
        assert reply["status"] == "ok"
