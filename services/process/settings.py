"""Settings of the services (docs/reference/settings.md): flags first, then `POLLCAST_*` environment variables, then the
defaults below.

Settings are read once at start and frozen. All faults are reported at once, as `SettingsInvalid`. A field has the name
of its variable without the prefix, in lower case.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from pollcast.services.errors import Problem, SettingsInvalid
from pollcast.services.process import keyfiles, origins, variables
from pollcast.services.process.addresses import (
    HostPort,
    endpoint_of,
    is_loopback,
    is_unspecified,
    join_host_port,
    path_prefix_of,
    reachable_host,
    split_host_port,
)
from pollcast.services.process.secure_url import secure_url
from pollcast.services.process.variables import variable

Role = Literal["gateway", "poller", "coordinator"]

S = TypeVar("S", bound="EtcdSettings")


class EtcdSettings(BaseSettings):
    """Settings of every command that connects to etcd."""

    model_config = SettingsConfigDict(
        env_prefix="POLLCAST_", frozen=True, extra="ignore", env_ignore_empty=True, defer_build=True
    )

    etcd: Annotated[tuple[HostPort, ...], NoDecode] = ("127.0.0.1:2379",)
    """Endpoints of etcd's members."""
    namespace: str = "/pollcast"
    """Prefix of all keys in etcd."""
    etcd_ca: Path | None = None
    """Certificates that etcd's own is verified with; setting them enables TLS to etcd."""
    etcd_cert: Path | None = None
    etcd_key: Path | None = None
    etcd_user: str | None = None
    etcd_password: SecretStr | None = Field(default=None, min_length=1)

    _files: dict[str, Path] = PrivateAttr(default_factory=dict)
    """Files that settings come from, by field."""

    def secret(self, field: str) -> Callable[[], str]:
        """Return a function that returns the present value of a secret, which must be given.

        That of a file is read again when the file changes; any other stays as it is.
        """
        value: str = getattr(self, field).get_secret_value()
        file = self._files.get(field)
        if file is None:
            return lambda: value
        return variables.Watched(field, file, value, exact=field in EXACT)

    @field_validator("etcd", mode="before")
    @classmethod
    def _endpoints(cls, value: object) -> object:
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, (list, tuple)) or not [p for p in parts if str(p).strip()]:
            raise ValueError("must be one or more endpoints, host:port or http://host:port, separated by commas")
        return tuple(endpoint_of(str(p)) for p in parts if str(p).strip())

    @field_validator("namespace")
    @classmethod
    def _namespace(cls, value: str) -> str:
        if not value.startswith("/") or value.endswith("/") or "//" in value:
            raise ValueError(f"{value!r} must begin with a slash, not end with one, and have no empty segment")
        return value

    @classmethod
    def contradictions(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Yield `(field, reason)` for each contradiction between settings.

        `given` holds the settings as they were given, before validation: a value may be of another type, or invalid.
        """
        yield from _together(given, "etcd_cert", "etcd_key")
        yield from _together(given, "etcd_user", "etcd_password")
        if "etcd_ca" not in given:
            if "https://" in str(given.get("etcd", "")):
                yield "etcd", "https:// needs POLLCAST_ETCD_CA, the certificates that etcd's own is verified with"
            if "etcd_cert" in given:
                yield "etcd_cert", "needs POLLCAST_ETCD_CA as well, which enables TLS to etcd"

    def unusable_files(self) -> Iterator[tuple[str, str]]:
        """Yield `(field, reason)` for each setting that names an unusable file."""
        for which, reason in keyfiles.tls_problems(self.etcd_ca, self.etcd_cert, self.etcd_key):
            yield f"etcd_{which}", reason

    @model_validator(mode="wrap")
    @classmethod
    def _all_at_once(cls, given: Any, build: ModelWrapValidatorHandler[S]) -> S:
        """Report invalid fields and contradictions together, without the value of any field."""
        present = {name: value for name, value in given.items() if value is not None}
        errors = [_error((field,), reason) for field, reason in cls.contradictions(present)]
        try:
            settings = build(given)
        except ValidationError as error:
            errors = [_error(e["loc"], _reason(e)) for e in error.errors(include_input=False)] + errors
        if errors:
            raise ValidationError.from_exception_data(cls.__name__, errors, hide_input=True)
        return settings


class ServiceSettings(EtcdSettings):
    """Settings of every service."""

    node: str = Field(default_factory=lambda: f"{socket.gethostname().split('.')[0]}-{uuid.uuid4().hex[:6]}")
    """Name of this node, unique in the cluster."""
    grpc: HostPort = "127.0.0.1:0"
    """Address to serve gRPC on."""
    advertise: str | None = None
    """Host under which other nodes reach this one; None: the host that it is bound to."""
    lease_ttl: int = Field(default=5, ge=2)
    """Time to live of the node's lease in etcd, in seconds."""
    catalog_reload: Literal["on", "off"] = "on"
    """Whether a change of the catalogue's file is noticed without SIGHUP."""
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
        return join_host_port(*split_host_port(value))

    @field_validator("advertise")
    @classmethod
    def _advertise(cls, value: str | None) -> str | None:
        return None if value is None else reachable_host(value)

    @classmethod
    def contradictions(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Yield `(field, reason)` for each contradiction, those of the base class included."""
        yield from super().contradictions(given)
        yield from _together(given, "tls_cert", "tls_key", "tls_ca")
        if "http" in cls.model_fields and "advertise" not in given and _is_everywhere(given.get("grpc")):  # a server's
            reason = "is every address of this host: set POLLCAST_ADVERTISE to the one by which others reach it"
            yield "grpc", f"{given['grpc']} {reason}"

    def unusable_files(self) -> Iterator[tuple[str, str]]:
        """Yield `(field, reason)` for each unusable file, those of the base class included."""
        yield from super().unusable_files()
        for which, reason in keyfiles.tls_problems(self.tls_ca, self.tls_cert, self.tls_key):
            yield f"tls_{which}", reason

    def advertised(self, host: str, port: int) -> HostPort:
        """Return the address under which other nodes reach a listener that is bound to `host` and `port`."""
        return join_host_port(self.advertise or host, port)


class PollerSettings(ServiceSettings):
    """Settings of a poller."""

    catalog: Path
    database_url: SecretStr | None = None
    """Connection string of the source `default`, in any form that libpq accepts; None: no query is polled there."""
    listen_url: SecretStr | None = None
    """Connection string of the PostgreSQL to listen on for notifications; None: the polled one."""
    http: HostPort = "127.0.0.1:0"
    """Address to serve `/healthz`, `/readyz` and `/metrics` on."""
    pool: int = Field(default=4, ge=1, le=1000)
    """Maximum number of connections to the database."""

    @field_validator("database_url", "listen_url", mode="before")
    @classmethod
    def _url(cls, value: object) -> object:
        return value.strip() if isinstance(value, str) else value


class CoordinatorSettings(ServiceSettings):
    """Settings of a coordinator."""

    catalog: Path | None = None
    http: HostPort = "127.0.0.1:0"
    """Address to serve `/healthz`, `/readyz` and `/metrics` on."""


TOKENS = ("auth_secret", "auth_jwks", "auth_jwks_url")
"""Settings each of which makes a gateway require tokens, and says how they are verified."""

ONE_OF_TOKENS = "POLLCAST_AUTH_SECRET, POLLCAST_AUTH_JWKS, POLLCAST_AUTH_JWKS_URL"
"""The variables of TOKENS in a message."""


class GatewaySettings(ServiceSettings):
    """Settings of a gateway."""

    catalog: Path
    http: HostPort = "127.0.0.1:4000"
    """Address to serve WebSocket, HTTP and the page on."""
    path_prefix: str | None = None
    """Path below which a proxy publishes the gateway; None: the root."""
    auth: Literal["none"] | None = None
    """The explicit decision to require no tokens."""
    auth_secret: SecretStr | None = Field(default=None, min_length=1)
    """Shared secret that verifies HS256 tokens."""
    auth_jwks: Path | None = None
    """JWK set file that verifies RS256, ES256 and EdDSA tokens."""
    auth_jwks_url: str | None = None
    """URL of a JWK set that verifies tokens in the same way."""
    auth_roles_claim: str = Field(default="roles", min_length=1)
    """Claim, or path with dots to it, that holds a token's roles."""
    auth_audience: str | None = None
    """Required audience of tokens; None: any."""
    auth_issuer: str | None = None
    """Required issuer of tokens; None: any."""
    origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins of pages that are allowed beside the gateway's own, as patterns of services/process/origins.py."""
    poke_roles: Annotated[tuple[str, ...], NoDecode] = ()
    """Roles of the tokens that may poke; empty: none may, where tokens are required."""
    workers: Annotated[int, Field(ge=1, le=1000)] | Literal["auto"] = 1
    """Number of processes that serve the HTTP address together; `auto`: one per core."""
    max_topics: int = Field(default=100, ge=1)
    """Maximum number of topics of a socket."""
    max_frame: int = Field(default=64 * 1024, ge=64)
    """Maximum size of a message from a client, in bytes. A join of a short topic has about 40."""
    max_connections: int = Field(default=10_000, ge=1)
    """Maximum number of connections of all kinds together."""
    join_rate: float = Field(default=100.0, gt=0, allow_inf_nan=False)
    """Maximum rate of joins, per second and socket."""
    drain_delay: float | None = Field(default=None, ge=0, le=3600)
    """Time from SIGTERM until clients are refused and closed, in seconds; None: what load balancers need."""

    @field_validator("path_prefix")
    @classmethod
    def _path_prefix(cls, value: str | None) -> str | None:
        return None if value is None else path_prefix_of(value)

    @field_validator("auth_jwks_url")
    @classmethod
    def _auth_jwks_url(cls, value: str | None) -> str | None:
        return None if value is None else secure_url(value)

    @field_validator("poke_roles", mode="before")
    @classmethod
    def _roles(cls, value: object) -> object:
        parts = value.split(",") if isinstance(value, str) else value
        return tuple(str(p).strip() for p in parts if str(p).strip()) if isinstance(parts, (list, tuple)) else parts

    @field_validator("origins", mode="before")
    @classmethod
    def _origins(cls, value: object) -> object:
        parts = value.split(",") if isinstance(value, str) else value
        given = [str(p).strip() for p in parts] if isinstance(parts, (list, tuple)) else []
        return tuple(origins.checked(each) for each in given if each)

    @classmethod
    def contradictions(cls, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Yield `(field, reason)` for each contradiction, those of the base class included."""
        yield from super().contradictions(given)
        tokens = [field for field in TOKENS if field in given]
        if len(tokens) > 1:
            yield tokens[0], f"{' and '.join(map(variable, tokens))} exclude each other"
        if "auth" in given and tokens:
            yield "auth", f"POLLCAST_AUTH=none contradicts {' and '.join(map(variable, tokens))}"
        if not tokens:
            for field in ("auth_audience", "auth_issuer", "auth_roles_claim"):
                if field in given:
                    yield field, f"has no effect without {ONE_OF_TOKENS}"
        if "auth" not in given and not tokens:
            for field in ("http", "grpc"):
                address = given.get(field, cls.model_fields[field].default)
                if not is_loopback(address):
                    yield (
                        field,
                        f"{address} is reachable from other machines, but no tokens are required: "
                        f"set {ONE_OF_TOKENS} or POLLCAST_AUTH=none",
                    )

    def unusable_files(self) -> Iterator[tuple[str, str]]:
        """Yield `(field, reason)` for each unusable file, those of the base class included."""
        yield from super().unusable_files()
        if self.auth_jwks is not None and (reason := keyfiles.key_set_problem(self.auth_jwks)):
            yield "auth_jwks", reason

    @property
    def worker_count(self) -> int:
        """The number of worker processes."""
        return len(os.sched_getaffinity(0)) if self.workers == "auto" else self.workers

    @property
    def tokens_required(self) -> bool:
        """True when clients need a valid token."""
        return any(getattr(self, field) is not None for field in TOKENS)


def _is_everywhere(address: object) -> bool:
    """Return whether this is an address, valid or not, that is bound to every address of the host."""
    try:
        return is_unspecified(split_host_port(str(address))[0])
    except ValueError:
        return False


def _together(given: Mapping[str, Any], *fields: str) -> Iterator[tuple[str, str]]:
    """Yield `(field, reason)` for the first missing one of these fields, unless all or none of them are given."""
    missing = [field for field in fields if field not in given]
    if missing and len(missing) < len(fields):
        *names, last = map(variable, fields)
        yield missing[0], f"{', '.join(names)} and {last} must be set together"


def _error(at: tuple[int | str, ...], reason: str) -> InitErrorDetails:
    """Return an error of pydantic with this reason, without the field's value."""
    return InitErrorDetails(type=PydanticCustomError("setting", "{reason}", {"reason": reason}), loc=at, input=None)


def _reason(error: Any) -> str:
    """Return the reason in an error of pydantic."""
    return "is required" if error["type"] == "missing" else str(error["msg"]).removeprefix("Value error, ")


KINDS: tuple[type[EtcdSettings], ...] = (GatewaySettings, PollerSettings, CoordinatorSettings)

DECISIONS = TOKENS
"""Settings that must not be an empty variable: a template that was not filled in is no decision against tokens."""

EXACT = ("auth_secret", "etcd_password")
"""Settings whose white space counts."""


def load(kind: type[S], **flags: Any) -> S:
    """Return settings from flags (None: not given), the environment, and the files that it names.

    Raises SettingsInvalid with all faults.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    paths = [name for name, info in kind.model_fields.items() if info.annotation in (Path, Path | None)]
    found = variables.read(kind.model_fields, EXACT, paths, os.environ, set(given))
    problems = list(found.faults.items())
    for name in DECISIONS:
        if name in kind.model_fields and name not in found.values and _is_undecided(name):
            problems.append((name, "is empty: set it, remove it, or set POLLCAST_AUTH=none"))
    try:
        settings = kind(**found.values | given)
    except ValidationError as error:
        faults = [(str(e["loc"][0]) if e["loc"] else "", _reason(e)) for e in error.errors(include_input=False)]
    else:
        faults = list(settings.unusable_files())
        if not faults and not problems:
            settings._files.update(found.sources)
            return settings
    problems += [
        (f"{name}{variables.FILE.lower()}" if name in found.sources else name, reason)
        for name, reason in faults
        if not {name, f"{name}{variables.FILE.lower()}"} & found.faults.keys()  # what follows from a fault is no other
    ]
    raise SettingsInvalid([Problem(_source(name, given), "", variable(name), reason) for name, reason in problems])


def _is_undecided(name: str) -> bool:
    """Return whether a setting's variable is empty, and nothing else says whether tokens are required."""
    others = (f"{variable(name)}{variables.FILE}", variable("auth"))
    return os.environ.get(variable(name)) == "" and not any(os.environ.get(each) for each in others)


def _source(name: str, given: Mapping[str, Any]) -> str:
    """Return where a setting's value comes from, for a message."""
    return "environment" if name not in given and variable(name) in os.environ else "settings"


def unknown_variables() -> list[str]:
    """Return the variables of the environment that have the prefix of settings, but that no service knows."""
    known = {variable(name) for kind in KINDS for name in kind.model_fields} | {"POLLCAST_TOKEN"}
    known |= {f"{name}{variables.FILE}" for name in known}
    return sorted(name for name in os.environ if name.startswith(variables.PREFIX) and name not in known)
