"""Settings of the services: flags first, then `POLLCAST_*` environment variables, then the defaults below.

Read once at start and frozen. Everything that is wrong is reported at once, as `SettingsInvalid`. Fields are named as
the variable is without its prefix, in lower case; units stand beside them. CONTRACT.md §8 and §10 name them all.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ModelWrapValidatorHandler, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from pollcast.services.errors import Problem, SettingsInvalid
from pollcast.services.process import keyfiles

Role = Literal["gateway", "poller", "coordinator"]

S = TypeVar("S", bound="EtcdSettings")

ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+")

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
    if "@" in bare:  # not quoted: it holds a password
        raise ValueError("an endpoint holds no user and password: POLLCAST_ETCD_USER and POLLCAST_ETCD_PASSWORD do")
    split_host_port(bare)
    return bare


class EtcdSettings(BaseSettings):
    """What every command that talks to etcd needs."""

    model_config = SettingsConfigDict(env_prefix="POLLCAST_", frozen=True, extra="ignore", env_ignore_empty=True)

    etcd: Annotated[tuple[HostPort, ...], NoDecode] = ("127.0.0.1:2379",)
    namespace: str = "/pollcast"
    etcd_ca: Path | None = None
    etcd_cert: Path | None = None
    etcd_key: Path | None = None
    etcd_user: str | None = None
    etcd_password: SecretStr | None = Field(default=None, min_length=1)

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

    @classmethod
    def contradictions(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """`(field, reason)` for whatever is wrong between fields. `given` is what was said, not what it means: a
        value may be of another type, or be refused as well."""
        yield from _together(given, "etcd_cert", "etcd_key")
        yield from _together(given, "etcd_user", "etcd_password")
        if "etcd_ca" not in given:
            if "https://" in str(given.get("etcd", "")):
                yield "etcd", "https:// needs POLLCAST_ETCD_CA, the certificates that etcd's own is checked with"
            if "etcd_cert" in given:
                yield "etcd_cert", "needs POLLCAST_ETCD_CA beside it: without, there is no TLS to etcd"

    def unusable_files(self) -> Iterator[tuple[str, str]]:
        """`(field, reason)` for each file named here that can't be used."""
        for which, reason in keyfiles.tls_problems(self.etcd_ca, self.etcd_cert, self.etcd_key):
            yield f"etcd_{which}", reason

    @model_validator(mode="wrap")
    @classmethod
    def _all_at_once(cls, given: Any, build: ModelWrapValidatorHandler[S]) -> S:
        """Fields and contradictions are told of together, and no error holds the value of a field."""
        said = {name: value for name, value in given.items() if value is not None}
        errors = [_error((field,), reason) for field, reason in cls.contradictions(said)]
        try:
            settings = build(given)
        except ValidationError as error:
            errors = [_error(e["loc"], _reason(e)) for e in error.errors(include_input=False)] + errors
        if errors:
            raise ValidationError.from_exception_data(cls.__name__, errors, hide_input=True)
        return settings


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

    @classmethod
    def contradictions(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from super().contradictions(given)
        yield from _together(given, "tls_cert", "tls_key", "tls_ca")

    def unusable_files(self) -> Iterator[tuple[str, str]]:
        yield from super().unusable_files()
        for which, reason in keyfiles.tls_problems(self.tls_ca, self.tls_cert, self.tls_key):
            yield f"tls_{which}", reason

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
    auth_secret: SecretStr | None = Field(default=None, min_length=1)
    auth_jwks: Path | None = None
    auth_audience: str | None = None
    auth_issuer: str | None = None
    origins: Annotated[tuple[str, ...], NoDecode] = ()  # empty: the gateway's own host
    max_topics: int = Field(default=100, ge=1)  # per socket
    max_frame: int = Field(default=64 * 1024, ge=64)  # bytes; a join of a short topic has about 40
    max_connections: int = Field(default=10_000, ge=1)
    join_rate: float = Field(default=100.0, gt=0, allow_inf_nan=False)  # joins per second and socket

    @field_validator("origins", mode="before")
    @classmethod
    def _origins(cls, value: object) -> object:
        parts = value.split(",") if isinstance(value, str) else value
        origins = [str(p).strip().rstrip("/").lower() for p in parts] if isinstance(parts, (list, tuple)) else []
        for origin in filter(None, origins):
            if origin != "*" and not ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin: it must be as https://example.org, with a port if need be")
        return tuple(filter(None, origins))

    @classmethod
    def contradictions(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from super().contradictions(given)
        tokens = [field for field in ("auth_secret", "auth_jwks") if field in given]
        if len(tokens) == 2:
            yield "auth_secret", "POLLCAST_AUTH_SECRET and POLLCAST_AUTH_JWKS exclude each other"
        if "auth" in given and tokens:
            yield "auth", f"POLLCAST_AUTH=none contradicts {' and '.join(map(_variable, tokens))}"
        if not tokens:
            for field in ("auth_audience", "auth_issuer"):
                if field in given:
                    yield field, "means nothing without POLLCAST_AUTH_SECRET or POLLCAST_AUTH_JWKS"
        if "auth" not in given and not tokens:
            for field in ("http", "grpc"):
                address = given.get(field, cls.model_fields[field].default)
                if not is_loopback(address):
                    yield (
                        field,
                        f"{address} is reachable from outside, but no tokens are asked for: "
                        "set POLLCAST_AUTH_SECRET or POLLCAST_AUTH_JWKS, or say POLLCAST_AUTH=none",
                    )

    def unusable_files(self) -> Iterator[tuple[str, str]]:
        yield from super().unusable_files()
        if self.auth_jwks is not None and (reason := keyfiles.key_set_problem(self.auth_jwks)):
            yield "auth_jwks", reason

    @property
    def tokens_required(self) -> bool:
        return self.auth_secret is not None or self.auth_jwks is not None


def is_loopback(address: object) -> bool:
    """Of `host:port`; also true for what is none, which is another problem."""
    try:
        host, _ = split_host_port(str(address))
    except ValueError:
        return True
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _together(given: Mapping[str, Any], *fields: str) -> Iterator[tuple[str, str]]:
    missing = [field for field in fields if field not in given]
    if missing and len(missing) < len(fields):
        *names, last = map(_variable, fields)
        yield missing[0], f"{', '.join(names)} and {last} go together"


def _variable(field: object) -> str:
    return f"POLLCAST_{str(field).upper()}"


def _error(at: tuple[int | str, ...], reason: str) -> InitErrorDetails:
    return InitErrorDetails(type=PydanticCustomError("setting", "{reason}", {"reason": reason}), loc=at, input=None)


def _reason(error: Any) -> str:
    return "is required" if error["type"] == "missing" else str(error["msg"]).removeprefix("Value error, ")


KINDS: tuple[type[EtcdSettings], ...] = (GatewaySettings, PollerSettings, CoordinatorSettings)

DECISIONS = ("auth_secret", "auth_jwks")
"""Left empty, these are no decision against tokens: somebody's template had nothing to fill in."""


def load(kind: type[S], **flags: Any) -> S:
    """Settings of one kind from flags (None: not given) and the environment. SettingsInvalid tells all problems."""
    given = {name: value for name, value in flags.items() if value is not None}
    problems = [
        Problem("environment", "", _variable(name), "is empty: give it a value, remove it, or say POLLCAST_AUTH=none")
        for name in DECISIONS
        if name in kind.model_fields and os.environ.get(_variable(name)) == "" and not os.environ.get("POLLCAST_AUTH")
    ]
    try:
        settings = kind(**given)
    except ValidationError as error:
        told = [(str(e["loc"][0]) if e["loc"] else "", _reason(e)) for e in error.errors(include_input=False)]
    else:
        told = list(settings.unusable_files())
        if not told and not problems:
            return settings
    problems += [Problem(_source(name, given), "", _variable(name), reason) for name, reason in told]
    raise SettingsInvalid(problems)


def _source(name: str, given: Mapping[str, Any]) -> str:
    return "environment" if name not in given and _variable(name) in os.environ else "settings"


def unknown_variables() -> list[str]:
    """Variables of the environment that look like settings, and are none of any service: misspelt, perhaps."""
    known = {_variable(name) for kind in KINDS for name in kind.model_fields} | {"POLLCAST_TOKEN"}
    return sorted(name for name in os.environ if name.startswith("POLLCAST_") and name not in known)
