"""etcd and PostgreSQL as in production: with TLS, passwords, and a role for Pollcast with the least rights that it
needs, which the scripts in deploy/ make."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import psycopg

from pollcast.services.local.child import Child
from pollcast.services.local.embedded import program
from pollcast.services.local.ports import free_port
from pollcast.services.local.postgres_server import PostgresServer
from tests.support.certificates import Certificate
from tests.support.postgres_tls import tls_in_front_of
from tests.support.repository import ROOT

DEPLOY = ROOT / "deploy"
START_SECONDS = 30.0


@dataclass(frozen=True)
class SecureEtcd:
    """A running etcd with TLS, and the users `root` and `pollcast`."""

    endpoint: str  # host:port
    certificate: Certificate
    passwords: dict[str, str] = field(default_factory=lambda: {"root": "root's:secret", "pollcast": "hunter2&more"})

    def etcdctl(self, *arguments: str, user: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run etcdctl as this user; None: without a user."""
        return subprocess.run(
            [program("etcdctl"), *arguments], env=self._environment(user), capture_output=True, text=True, check=False
        )

    def make_role(self) -> None:
        """Run deploy/etcd-role.sh, which makes the users and the role."""
        passwords = {"ROOT_PASSWORD": self.passwords["root"], "POLLCAST_ETCD_PASSWORD": self.passwords["pollcast"]}
        subprocess.run(
            [DEPLOY / "etcd-role.sh"],
            env=self._environment(None) | passwords | {"ETCDCTL": program("etcdctl")},
            check=True,
            capture_output=True,
            text=True,
        )

    def healthy(self) -> bool:
        """Return whether etcd answers."""
        return self.etcdctl("endpoint", "health").returncode == 0

    def _environment(self, user: str | None) -> dict[str, str]:
        environment = {"PATH": os.environ["PATH"], "ETCDCTL_ENDPOINTS": f"https://{self.endpoint}"}
        environment["ETCDCTL_CACERT"] = str(self.certificate.ca)
        if user is not None:
            environment["ETCDCTL_USER"] = f"{user}:{self.passwords[user]}"
        return environment


@contextlib.contextmanager
def secure_etcd(folder: Path, certificate: Certificate) -> Iterator[SecureEtcd]:
    """Run an etcd with TLS and the role of deploy/etcd-role.sh."""
    folder.mkdir()
    client, peer = (f"127.0.0.1:{free_port()}" for _ in range(2))
    command = [
        program("etcd"),
        f"--data-dir={folder / 'data'}",
        f"--listen-client-urls=https://{client}",
        f"--advertise-client-urls=https://{client}",
        f"--listen-peer-urls=http://{peer}",
        f"--initial-advertise-peer-urls=http://{peer}",
        f"--initial-cluster=default=http://{peer}",
        f"--cert-file={certificate.cert}",
        f"--key-file={certificate.key}",
        "--unsafe-no-fsync",
        "--log-level=error",
    ]
    child = Child("etcd", command, folder / "log", env={"PATH": os.environ["PATH"]})
    etcd = SecureEtcd(client, certificate)
    child.start()
    try:
        child.until(etcd.healthy, START_SECONDS)
        etcd.make_role()
        yield etcd
    finally:
        child.kill()


PASSWORD = "a reader's 100% secret"

HBA = """
local  all  postgres         trust
host   all  postgres         127.0.0.1/32  trust
host   all  pollcast_reader  127.0.0.1/32  scram-sha-256
"""


@dataclass(frozen=True)
class SecurePostgres:
    """A running PostgreSQL behind a TLS proxy."""

    server: PostgresServer
    port: int  # the proxy's
    certificate: Certificate

    def url(self, sslmode: str = "verify-full") -> str:
        """Return the connection URL of the role that only reads."""
        user = f"pollcast_reader:{quote(PASSWORD, safe='')}"
        options = f"sslmode={sslmode}&sslrootcert={quote(str(self.certificate.ca), safe='')}"
        return f"postgresql://{user}@127.0.0.1:{self.port}/postgres?{options}"


@contextlib.contextmanager
def secure_postgres(folder: Path, certificate: Certificate) -> Iterator[SecurePostgres]:
    """Run a PostgreSQL with TLS and the role of deploy/postgres-role.sql, whose password is PASSWORD."""
    data = folder / "data"
    with PostgresServer.start(data, fsync=False) as server, tls_in_front_of(server.port, certificate) as port:
        (data / "pg_hba.conf").write_text(HBA)
        with psycopg.connect(server.url, autocommit=True) as database:
            database.execute((DEPLOY / "postgres-role.sql").read_bytes())
            database.execute(psycopg.sql.SQL("alter role pollcast_reader password {}").format(PASSWORD))
            database.execute("select pg_reload_conf()")
        yield SecurePostgres(server, port, certificate)
