"""Settings of the services: flags first, then `POLLCAST_*` environment variables, then the defaults below.

Read once at start and frozen. Everything that is wrong is reported at once, as `SettingsInvalid`. Fields are named as
the variable is without its prefix, in lower case; units stand beside them. CONTRACT.md §8 and §10 name them all.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from services.errors import Problem, SettingsInvalid

Role = Literal["gateway", "poller", "coordinator"]

HostPort = str
"""`host:port`; port 0 lets the system choose one."""


def split_host_port(address: str) -> tuple[str, int]:
    """`"[::1]:80"` → `("::1", 80)`. ValueError says what would be right."""
    host, colon, port = address.strip().rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{address!r} is not host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


def join_host_port(host: str, port: int) -> HostPort:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def without_scheme(endpoint: str) -> HostPort:
    """`http://10.0.0.1:2379/` and `10.0.0.1:2379` → `10.0.0.1:2379`. ValueError says what would be right."""
    bare = endpoint.strip().removeprefix("http://").removeprefix("https://").rstrip("/")
    split_host_port(bare)
    return bare


class EtcdSettings(BaseSettings):
    """What every command that talks to etcd needs."""

    model_config = SettingsConfigDict(env_prefix="POLLCAST_", frozen=True, extra="ignore")

    etcd: Annotated[tuple[HostPort, ...], NoDecode] = ("127.0.0.1:2379",)
    namespace: str = "/pollcast"
    etcd_ca: Path | None = None
    etcd_cert: Path | None = None
    etcd_key: Path | None = None
    etcd_user: str | None = None
    etcd_password: SecretStr | None = None

    @field_validator("etcd", mode="before")
    @classmethod
    def _endpoints(cls, value: object) -> object:
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, (list, tuple)) or not [p for p in parts if str(p).strip()]:
            raise ValueError("needs at least one endpoint, as host:port or http://host:port, separated by commas")
        return tuple(without_scheme(str(p)) for p in parts if str(p).strip())

    @field_validator("namespace")
    @classmethod
    def _namespace(cls, value: str) -> str:
        if not value.startswith("/") or value.endswith("/") or "//" in value:
            raise ValueError(f"{value!r} must start with a slash, not end with one, and hold no empty segment")
        return value

    @model_validator(mode="after")
    def _pairs(self) -> EtcdSettings:
        if (self.etcd_cert is None) != (self.etcd_key is None):
            raise ValueError("POLLCAST_ETCD_CERT and POLLCAST_ETCD_KEY go together")
        if (self.etcd_user is None) != (self.etcd_password is None):
            raise ValueError("POLLCAST_ETCD_USER and POLLCAST_ETCD_PASSWORD go together")
        return self


class ServiceSettings(EtcdSettings):
    """What every service has."""

    node: str = Field(default_factory=lambda: f"{socket.gethostname().split('.')[0]}-{uuid.uuid4().hex[:6]}")
    grpc: HostPort = "127.0.0.1:0"
    advertise: str | None = None  # the host that others reach it by; default: where it is bound
    lease_ttl: int = Field(default=5, ge=2)  # seconds
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None

    @field_validator("node")
    @classmethod
    def _node(cls, value: str) -> str:
        if not value or len(value) > 128 or not all(c.isascii() and (c.isalnum() or c in "._-") for c in value):
            raise ValueError(f"{value!r} must be 1 to 128 letters, digits, dots, dashes or underscores")
        return value

    @field_validator("grpc", "http", check_fields=False)
    @classmethod
    def _address(cls, value: str) -> str:
        split_host_port(value)
        return value

    @model_validator(mode="after")
    def _tls(self) -> ServiceSettings:
        given = [v is not None for v in (self.tls_cert, self.tls_key, self.tls_ca)]
        if any(given) and not all(given):
            raise ValueError("POLLCAST_TLS_CERT, POLLCAST_TLS_KEY and POLLCAST_TLS_CA go together")
        return self

    def advertised(self, host: str, port: int) -> HostPort:
        """The address that others reach a listener by, which is bound to `host` and `port`."""
        return join_host_port(self.advertise or host, port)


class PollerSettings(ServiceSettings):
    catalog: Path
    database_url: SecretStr
    http: HostPort = "127.0.0.1:0"  # /healthz and /metrics
    pool: int = Field(default=4, ge=1, le=1000)  # connections


class CoordinatorSettings(ServiceSettings):
    catalog: Path | None = None
    http: HostPort = "127.0.0.1:0"  # /healthz and /metrics


class GatewaySettings(ServiceSettings):
    catalog: Path
    http: HostPort = "127.0.0.1:4000"
    auth: Literal["none"] | None = None
    auth_secret: SecretStr | None = None
    auth_jwks: Path | None = None
    auth_audience: str | None = None
    auth_issuer: str | None = None
    origins: Annotated[tuple[str, ...], NoDecode] = ()  # empty: the gateway's own host
    max_topics: int = Field(default=100, ge=1)  # per socket
    max_frame: int = Field(default=64 * 1024, ge=1024)  # bytes
    max_connections: int = Field(default=10_000, ge=1)
    join_rate: float = Field(default=100.0, gt=0)  # joins per second and socket

    @field_validator("origins", mode="before")
    @classmethod
    def _origins(cls, value: object) -> object:
        parts = value.split(",") if isinstance(value, str) else value
        return tuple(p.strip().rstrip("/").lower() for p in parts if p.strip()) if parts else ()  # type: ignore[attr-defined]

    @model_validator(mode="after")
    def _tokens(self) -> GatewaySettings:
        if self.auth_secret is not None and self.auth_jwks is not None:
            raise ValueError("POLLCAST_AUTH_SECRET and POLLCAST_AUTH_JWKS exclude each other")
        if self.auth == "none" and (self.auth_secret is not None or self.auth_jwks is not None):
            raise ValueError("POLLCAST_AUTH=none contradicts POLLCAST_AUTH_SECRET or POLLCAST_AUTH_JWKS")
        host, _ = split_host_port(self.http)
        if self.auth is None and not self.tokens_required and not _is_loopback(host):
            raise ValueError(
                f"POLLCAST_HTTP={self.http} is reachable from outside, but no tokens are asked for: "
                "set POLLCAST_AUTH_SECRET or POLLCAST_AUTH_JWKS, or say POLLCAST_AUTH=none"
            )
        return self

    @property
    def tokens_required(self) -> bool:
        return self.auth_secret is not None or self.auth_jwks is not None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


S = TypeVar("S", bound=EtcdSettings)


def load(kind: type[S], **flags: Any) -> S:
    """Settings of one kind from flags (None: not given) and the environment. SettingsInvalid lists all problems."""
    try:
        return kind(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        raise SettingsInvalid([_problem(e) for e in error.errors()]) from None


def _problem(error: Any) -> Problem:
    name = "POLLCAST_" + str(error["loc"][0]).upper() if error["loc"] else ""
    source = "environment" if name in os.environ else "settings"
    reason = str(error["msg"]).removeprefix("Value error, ")
    return Problem(source, "", name, "is required" if error["type"] == "missing" else reason)
