"""The admission of connections to a gateway: origins of pages, names of hosts, and the number of connections."""

from __future__ import annotations

from pathlib import Path

import pytest

from pollcast.gateway.admission import Admission
from pollcast.gateway.origin import OriginPolicy
from pollcast.services.errors import Forbidden, TooManyConnections
from pollcast.services.process.settings import GatewaySettings, load

CATALOG = Path("c.toml")


@pytest.mark.parametrize(
    ("origins", "origin", "host", "allowed"),
    [
        ((), None, "a:1", True),
        ((), "http://a:1", "a:1", True),
        ((), "HTTPS://A", "a:443", True),
        ((), "https://a:443", "a", True),
        ((), "https://a", "b", False),
        ((), "https://a:444", "a", False),
        ((), "null", "null", False),
        ((), "file://", "", False),
        ((), "", "", False),
        ((), "http://[", "[", True),  # no browser sends this: one client chose both headers
        (("https://a",), "https://a:443", "b", True),
        (("https://a",), "http://a", "b", False),
        (("https://a",), "http://a", "a", True),  # the gateway's own page, whatever else is allowed
        (("https://a",), "https://a.b", "b", False),
        (("https://*.a.b",), "https://x.a.b", "b", True),
        (("https://*.a.b",), "https://x.y.a.b:443", "b", True),
        (("https://*.a.b",), "HTTPS://X.A.B", "b", True),
        (("https://*.a.b",), "https://a.b", "b", False),
        (("https://*.a.b",), "https://.a.b", "b", False),
        (("https://*.a.b",), "http://x.a.b", "b", False),
        (("https://*.a.b",), "https://x.a.b:444", "b", False),
        (("https://*.a.b",), "https://xa.b", "b", False),
        (("https://*.a.b",), "https://x.a.b.evil", "b", False),
        (("https://*.a.b",), "https://evil/x.a.b", "b", False),
        (("https://*.a.b",), "https://evil:1@x.a.b", "b", False),
        (("https://*.a.b:444",), "https://x.a.b:444", "b", True),
        (("https://*.a.b:444",), "https://x.a.b", "b", False),
    ],
)
def test_a_page_is_allowed_from_the_gateways_own_host_or_a_listed_origin(
    origins: tuple[str, ...], origin: str | None, host: str, allowed: bool
) -> None:
    assert OriginPolicy(origins).allow_origin(origin, host) is allowed


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:5173", True),
        ("https://app.localhost", True),
        ("http://127.0.0.1", True),
        ("http://127.9.9.9:1", True),
        ("http://[::1]:3000", True),
        ("http://localhost.evil.example", False),
        ("http://127.0.0.1.evil.example", False),
        ("http://127.0.0.1@evil.example", False),
        ("http://10.0.0.1", False),
        ("null", False),
    ],
)
def test_pages_of_every_port_of_this_machine_are_allowed_where_the_gateway_is_started_so(
    origin: str, allowed: bool
) -> None:
    settings = load(GatewaySettings, catalog=CATALOG, auth="none")
    assert OriginPolicy.of(settings, local=True).allow_origin(origin, "gateway:4000") is allowed
    assert not OriginPolicy.of(settings).allow_origin(origin, "gateway:4000")


@pytest.mark.parametrize(
    ("host", "answered"),
    [
        ("127.0.0.1:4000", True),
        ("localhost:4000", True),
        ("[::1]:4000", True),
        ("app.localhost", True),
        ("gateway:4000", True),
        ("", True),
        ("app.example.org", True),
        ("rebound.evil.example:4000", False),
        ("rebound.evil.example.", False),
    ],
)
def test_a_gateway_without_a_decision_on_tokens_serves_pages_only_under_names_of_this_machine(
    host: str, answered: bool
) -> None:
    undecided = OriginPolicy.of(load(GatewaySettings, catalog=CATALOG, origins="https://app.example.org"))
    decided = OriginPolicy.of(load(GatewaySettings, catalog=CATALOG, auth="none"))
    for policy in (decided, undecided):
        policy.check(None, host)  # no Origin header: not a browser
    page = "https://app.example.org"
    if answered:
        undecided.check(page, host)
    else:
        with pytest.raises(Forbidden):
            undecided.check(page, host)


def test_connections_of_all_kinds_share_one_limit() -> None:
    admission = Admission(3, lambda: 1)
    with admission.seat():
        with admission.seat(), pytest.raises(TooManyConnections), admission.seat():
            pass
        assert admission.taken == 2
    assert admission.taken == 1
