"""A cluster with every protection enabled: TLS between services, etcd with TLS and a user, PostgreSQL with TLS and a
role that only reads, and tokens verified by a key set."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import grpc.aio
import jwt
import orjson
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from grpc_health.v1 import health_pb2, health_pb2_grpc
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from pollcast.services.cli.doctor.diagnosis import examine
from pollcast.services.cli.doctor.finding import Finding
from pollcast.v1 import cluster_pb2, cluster_pb2_grpc, feed_pb2, feed_pb2_grpc, live_pb2, live_pb2_grpc, types_pb2
from tests.support.certificates import Authority, Certificate
from tests.support.cluster import Cluster, cluster
from tests.support.secure_servers import PASSWORD, SecureEtcd, SecurePostgres, secure_etcd, secure_postgres
from tests.support.waiting import eventually

CATALOG = """
[queries.stock]
sql = "select id, n from stock order by id"
key = ["id"]
interval = "100ms"
linger = "1s"

[queries.mine]
sql = "select id, note from notes where tenant = %(tenant)s order by id"
key = ["id"]
interval = "100ms"
linger = "1s"
[queries.mine.params]
tenant = { type = "text", claim = "tenant_id" }

[queries.careless]
sql = "select %(tenant)s::int as n"
interval = "100ms"
linger = "1s"
[queries.careless.params]
tenant = { type = "text", claim = "tenant_id" }

[queries.writes]
sql = "with gone as (select pg_advisory_lock(1)), n as (select nextval('numbers') as n) select n from n, gone"
interval = "100ms"

[queries.sales]
sql = "select 1 as one"
roles = ["sales"]
"""

TENANT = "tenant-whose-name-is-nobodys-business"


class Issuer:
    """An issuer of tokens with Ed25519 keys, which writes their public halves into a key set file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._keys: dict[str, Ed25519PrivateKey] = {}
        self.add("first")

    def add(self, kid: str) -> None:
        """Add a new key to the key set."""
        self._keys[kid] = Ed25519PrivateKey.generate()
        self._write()

    def remove(self, kid: str) -> None:
        """Remove a key from the key set."""
        del self._keys[kid]
        self._write()

    def token(self, kid: str = "first", seconds: float = 300, **claims: object) -> str:
        """Return a token that the key signs and that expires after `seconds`."""
        payload = {"sub": "alice", "aud": "pollcast", "iss": "tests", "exp": int(time.time() + seconds)} | claims
        return jwt.encode(payload, self._keys[kid], algorithm="EdDSA", headers={"kid": kid})

    def _write(self) -> None:
        algorithm = jwt.get_algorithm_by_name("EdDSA")
        keys = [json.loads(algorithm.to_jwk(key.public_key())) | {"kid": kid} for kid, key in self._keys.items()]
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps({"keys": keys}))
        new.replace(self.file)


@dataclass(frozen=True)
class Secured:
    """A running cluster, its servers, and the certificates of its services."""

    cluster: Cluster
    etcd: SecureEtcd
    postgres: SecurePostgres
    issuer: Issuer
    certificate: Certificate
    foreign: Certificate  # issued by another authority

    def logs(self) -> str:
        """Return the logs of all services."""
        return "".join(file.read_text(errors="replace") for file in (self.cluster.data_dir / "logs").iterdir())


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    authority = Authority(folder / "tls")
    ours, foreign = authority.issue("pollcast"), Authority(folder / "foreign", "somebody else").issue("pollcast")
    (folder / "catalog.toml").write_text(CATALOG)
    issuer = Issuer(folder / "keys.json")
    with (
        secure_etcd(folder / "etcd", authority.issue("etcd")) as etcd,
        secure_postgres(folder / "postgres", authority.issue("postgres")) as postgres,
    ):
        with psycopg.connect(postgres.server.url, autocommit=True) as database:
            database.execute("create table stock (id int primary key, n int)")
            database.execute("create table notes (id int primary key, tenant text, note text)")
            database.execute("create sequence numbers")
            database.execute("insert into stock values (1, 1)")
            database.execute(f"insert into notes values (1, '{TENANT}', 'a'), (2, 'other', 'b')")
        environment = {
            "POLLCAST_ETCD_CA": str(etcd.certificate.ca),
            "POLLCAST_ETCD_USER": "pollcast",
            "POLLCAST_ETCD_PASSWORD": etcd.passwords["pollcast"],
            "POLLCAST_TLS_CA": str(ours.ca),
            "POLLCAST_TLS_CERT": str(ours.cert),
            "POLLCAST_TLS_KEY": str(ours.key),
            "POLLCAST_AUTH_JWKS": str(issuer.file),
            "POLLCAST_AUTH_AUDIENCE": "pollcast",
            "POLLCAST_AUTH_ISSUER": "tests",
        }
        flags = ["--etcd", f"https://{etcd.endpoint}", "--database-url", postgres.url()]
        flags += ["--gateways", "1", "--pollers", "1", "--catalog", str(folder / "catalog.toml")]
        with cluster(folder / "data", *flags, environment=environment) as up:
            yield Secured(up, etcd, postgres, issuer, ours, foreign)


def credentials(ca: Path, own: Certificate | None = None) -> grpc.ChannelCredentials:
    """Return TLS credentials that trust `ca`, with a client certificate if `own` is given."""
    if own is None:
        return grpc.ssl_channel_credentials(ca.read_bytes())
    return grpc.ssl_channel_credentials(ca.read_bytes(), own.key.read_bytes(), own.cert.read_bytes())


async def joined(secured: Secured, topic: str, token: str) -> dict[str, Any]:
    """Join a topic over WebSocket and return the payload of the first snapshot or of the status `failed`."""
    url = f"ws://{secured.cluster.gateway()}/socket/websocket?vsn=2.0.0&token={token}"
    async with asyncio.timeout(20), connect(url) as socket:
        await socket.send(json.dumps(["1", "1", topic, "phx_join", {}]))
        reply = json.loads(await socket.recv())
        assert reply[4]["status"] == "ok", reply
        async for text in socket:
            message = json.loads(text)
            payload: dict[str, Any] = message[4]
            if message[3] == "snapshot" or (message[3] == "status" and payload["state"] == "failed"):
                return payload
    raise AssertionError("closed")


async def test_rows_reach_a_client_with_every_protection_enabled(secured: Secured) -> None:
    snapshot = await joined(secured, "live:stock", secured.issuer.token())
    assert snapshot["rows"] == [{"id": 1, "n": 1}]


async def test_each_tenant_gets_its_own_rows(secured: Secured) -> None:
    first = await joined(secured, "live:mine", secured.issuer.token(tenant_id=TENANT))
    second = await joined(secured, "live:mine", secured.issuer.token(tenant_id="other"))
    assert (first["rows"], second["rows"]) == ([{"id": 1, "note": "a"}], [{"id": 2, "note": "b"}])


# --- between services ---------------------------------------------------------------------------------------------


Peer = Callable[[Secured], grpc.ChannelCredentials | None]
"""A maker of a peer's TLS credentials; None: a peer without TLS."""

STRANGERS: dict[str, Peer] = {
    "no TLS": lambda secured: None,
    "no certificate": lambda secured: credentials(secured.certificate.ca),
    "another authority's certificate": lambda secured: credentials(secured.certificate.ca, secured.foreign),
}


def channel(address: str, peer: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    """Return a channel of a peer with these credentials."""
    return grpc.aio.insecure_channel(address) if peer is None else grpc.aio.secure_channel(address, peer)


async def health(channel: grpc.aio.Channel) -> health_pb2.HealthCheckResponse:
    """Return the server's health."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer: health_pb2.HealthCheckResponse = await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
    return answer


@pytest.mark.parametrize("role", ["poller", "coordinator"])
@pytest.mark.parametrize("stranger", STRANGERS)
async def test_pollers_and_coordinators_refuse_a_peer_without_a_certificate_of_the_authority(
    secured: Secured, role: str, stranger: str
) -> None:
    async with channel(secured.cluster.grpc(role), STRANGERS[stranger](secured)) as strange:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await health(strange)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        feed = feed_pb2_grpc.FeedStub(strange).Subscribe(iter([feed_pb2.FeedRequest(gateway="evil")]), timeout=10)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await feed.read()
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("role", ["gateway", "poller", "coordinator"])
async def test_services_accept_a_peer_with_a_certificate_of_the_authority(secured: Secured, role: str) -> None:
    peer = credentials(secured.certificate.ca, secured.certificate)
    async with channel(secured.cluster.grpc(role), peer) as welcome:
        assert (await health(welcome)).status == health_pb2.HealthCheckResponse.SERVING


async def test_cluster_lists_what_gateways_report_and_pokes_pollers_over_tls_for_peers_with_a_certificate_only(
    secured: Secured,
) -> None:
    address = secured.cluster.grpc("coordinator")
    peer = credentials(secured.certificate.ca, secured.certificate)
    url = f"ws://{secured.cluster.gateway()}/socket/websocket?vsn=2.0.0&token={secured.issuer.token()}"
    async with connect(url) as socket, channel(address, peer) as welcome, channel(address, None) as strange:
        await socket.send(json.dumps(["1", "1", "live:stock", "phx_join", {}]))

        async def listed() -> bool:
            topics = await cluster_pb2_grpc.ClusterStub(welcome).ListTopics(cluster_pb2.ListTopicsRequest(), timeout=10)
            return [(t.topic, t.clients) for t in topics.topics if t.topic == "stock"] == [("stock", 1)]

        await eventually(listed)
        poke = types_pb2.PokeRequest(topic="stock")
        assert (await cluster_pb2_grpc.ClusterStub(welcome).Poke(poke, timeout=10)).topics == 1
        for call in (
            cluster_pb2_grpc.ClusterStub(strange).ListTopics(cluster_pb2.ListTopicsRequest(), timeout=10),
            cluster_pb2_grpc.ClusterStub(strange).Poke(poke, timeout=10),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_consumer_of_livequery_needs_a_token_but_no_certificate(secured: Secured) -> None:
    async with channel(secured.cluster.grpc("gateway"), credentials(secured.certificate.ca)) as consumer:
        live = live_pb2_grpc.LiveQueryStub(consumer)
        bearer = (("authorization", f"Bearer {secured.issuer.token()}"),)
        got = await live.Get(live_pb2.GetRequest(topic="stock"), metadata=bearer, timeout=10)
        assert [orjson.loads(row) for row in got.rows] == [{"id": 1, "n": 1}]
        for metadata, code in (
            ((), grpc.StatusCode.UNAUTHENTICATED),
            ((("authorization", "Bearer e30.e30.e30"),), grpc.StatusCode.UNAUTHENTICATED),
        ):
            for call in (
                live.Get(live_pb2.GetRequest(topic="stock"), metadata=metadata, timeout=10),
                live.Watch(live_pb2.WatchRequest(topic="stock"), metadata=metadata, timeout=10).read(),
                live.ListQueries(live_pb2.ListQueriesRequest(), metadata=metadata, timeout=10),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call
                assert refused.value.code() is code
                assert (refused.value.details() or "").startswith("unauthorized: ")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await live.Get(live_pb2.GetRequest(topic="sales"), metadata=bearer, timeout=10)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


# --- etcd and PostgreSQL ------------------------------------------------------------------------------------------


def test_the_etcd_user_reaches_its_prefix_and_nothing_else(secured: Secured) -> None:
    etcd = secured.etcd
    assert etcd.etcdctl("put", "/other/key", "secret", user="root").returncode == 0
    assert "/pollcast/nodes/gateway/" in etcd.etcdctl("get", "--prefix", "/pollcast/", user="pollcast").stdout
    for forbidden in (
        ("get", "/other/key"),
        ("put", "/pollcastle/x", "1"),
        ("put", "/pollcas", "1"),
        ("get", "--prefix", ""),
        ("del", "--prefix", "/"),
        ("user", "list"),
        ("auth", "disable"),
    ):
        refused = etcd.etcdctl(*forbidden, user="pollcast")
        assert refused.returncode != 0, forbidden
        assert "permission denied" in refused.stderr
    assert etcd.etcdctl("get", "/pollcast/leader").returncode != 0  # without a user


async def test_doctor_passes_every_protection_and_says_which_one_stops_it(
    secured: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {
        "POLLCAST_ETCD_CA": secured.etcd.certificate.ca,
        "POLLCAST_ETCD_USER": "pollcast",
        "POLLCAST_ETCD_PASSWORD": secured.etcd.passwords["pollcast"],
        "POLLCAST_TLS_CA": secured.certificate.ca,
        "POLLCAST_TLS_CERT": secured.certificate.cert,
        "POLLCAST_TLS_KEY": secured.certificate.key,
    }

    async def found(**changed: str) -> list[Finding]:
        for name, value in (settings | changed).items():
            monkeypatch.setenv(name, str(value))  # an empty one counts as not given
        flags = {"etcd": secured.etcd.endpoint, "database_url": secured.postgres.url()}
        return await asyncio.to_thread(examine, flags, ())

    async def nothing_wrong() -> list[Finding]:
        every = await found()
        return [] if [finding for finding in every if finding.level == "wrong"] else every

    healthy = await eventually(nothing_wrong)
    assert {"gateway-1", "poller-1", "coordinator-1"} <= {each.about for each in healthy if each.level == "ok"}
    assert not [each for each in healthy if each.about == "database" and "may write" in each.found]
    for changed, words in (
        ({"POLLCAST_ETCD_USER": "", "POLLCAST_ETCD_PASSWORD": ""}, "user name is empty. Set POLLCAST_ETCD_USER"),
        ({"POLLCAST_ETCD_PASSWORD": "wrong"}, "invalid user ID or password. Correct POLLCAST_ETCD_USER"),
        ({"POLLCAST_ETCD_CA": ""}, "TLS only. Set POLLCAST_ETCD_CA"),
        ({"POLLCAST_ETCD_CA": str(secured.foreign.ca)}, "certificate verify failed"),
        ({"POLLCAST_TLS_CA": "", "POLLCAST_TLS_CERT": "", "POLLCAST_TLS_KEY": ""}, "it may require TLS (POLLCAST_TLS"),
    ):
        lines = [finding.line for finding in await found(**changed) if finding.level == "wrong"]
        assert [line for line in lines if words in line], (changed, lines)


def test_the_etcd_role_script_can_run_again(secured: Secured) -> None:
    secured.etcd.make_role()
    assert secured.etcd.etcdctl("get", "/pollcast/leader", user="pollcast").returncode == 0


def test_the_postgresql_role_can_only_read_and_only_over_tls(secured: Secured) -> None:
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(secured.postgres.url("disable"))
    with psycopg.connect(secured.postgres.url(), autocommit=True) as reader:
        assert reader.pgconn.ssl_in_use
        assert reader.execute("select n from stock").fetchall()
        reader.execute("set default_transaction_read_only = off")  # the role's rights suffice to refuse writes
        for statement in (
            "insert into stock values (9, 9)",
            "update stock set n = 0",
            "delete from stock",
            "truncate stock",
            "create table t (n int)",
            "create temporary table t (n int)",
            "select nextval('numbers')",
            "copy stock to program 'true'",
            "select pg_read_file('/etc/passwd')",
            "alter role pollcast_reader superuser",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(statement.encode())


async def test_the_database_refuses_a_query_that_writes(secured: Secured) -> None:
    status = await joined(secured, "live:writes", secured.issuer.token())
    assert status["state"] == "failed"
    with psycopg.connect(secured.postgres.server.url) as database:
        assert database.execute("select is_called from numbers").fetchone() == (False,)


# --- tokens -------------------------------------------------------------------------------------------------------


async def test_keys_are_rotated_without_a_restart(secured: Secured) -> None:
    secured.issuer.add("second")
    old, new = secured.issuer.token("first"), secured.issuer.token("second")

    async def accepted(token: str) -> bool:
        try:
            await joined(secured, "live:stock", token)
        except InvalidStatus as error:
            return error.response.status_code != 403
        return True

    await eventually(lambda: accepted(new))
    assert await accepted(old)
    secured.issuer.remove("second")

    async def refused() -> bool:
        return not await accepted(new)

    await eventually(refused)
    assert await accepted(old)


# --- secrets in logs and metrics ----------------------------------------------------------------------------------


async def test_logs_and_metrics_hold_no_token_password_or_claim(secured: Secured) -> None:
    token = secured.issuer.token(tenant_id=TENANT)
    await joined(secured, "live:mine", token)
    assert (await joined(secured, "live:careless", token))["state"] == "failed"
    await eventually(lambda: "poll error" in secured.logs())
    written = secured.logs()
    for role in ("gateway", "poller", "coordinator"):
        host, _, port = str(secured.cluster.nodes(role)[0].http).rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        written += (await reader.read()).decode()
        writer.close()
    assert "pollcast_gateway_sockets" in written
    for secret in (token, token.split(".")[2], TENANT, PASSWORD, quote(PASSWORD, safe=""), "hunter2"):
        assert secret not in written
