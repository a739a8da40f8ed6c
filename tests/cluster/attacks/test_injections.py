"""Attacks through the value of a parameter: it stays a value in the database and one key segment in etcd."""

from __future__ import annotations

from urllib.parse import quote

import psycopg
import pytest
from websockets.asyncio.client import connect

from pollcast.services.coordination.client import Etcd
from pollcast.services.process.settings import EtcdSettings
from tests.support.cluster import Cluster
from tests.support.hostile import TYPED_VALUES, http, join, joined, socket_url, token
from tests.support.waiting import eventually

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


@pytest.mark.parametrize("kind", TYPED_VALUES)
async def test_sql_in_a_value_is_never_executed(gateway: str, running: Cluster, kind: str) -> None:
    bearer = token()
    query = "echo_text" if kind == "text" else f"typed_{kind}"
    async with connect(socket_url(gateway, bearer)) as socket:
        for text in INJECTIONS:
            for value in (text, TYPED_VALUES[kind] + text):
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
async def test_a_topic_is_one_key_segment_in_etcd_whatever_its_value_holds(
    gateway: str, running: Cluster, value: str
) -> None:
    topic = f"echo_text?value={quote(value, safe='')}"
    async with (
        Etcd.open(EtcdSettings(etcd=tuple(running.etcd))) as etcd,
        joined(gateway, f"live:{topic}", token()) as (_, reply),
    ):
        assert reply["response"]["topic"] == topic
        prefix = f"{running.namespace}/demand/{topic}/"

        async def demanded() -> bool:
            return bool((await etcd.range(prefix)).kvs)

        await eventually(demanded)
        for kv in (await etcd.range("/")).kvs:
            parts = kv.key.removeprefix(f"{running.namespace}/").split("/")
            shape = {"nodes": 3, "demand": 3, "owners": 2, "leader": 1}
            assert kv.key.startswith(f"{running.namespace}/")
            assert len(parts) == shape[parts[0]], kv.key
