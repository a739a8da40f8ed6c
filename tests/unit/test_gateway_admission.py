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
        (("https://a",), "http://a", "a", False),
        (("https://a",), "https://a.b", "b", False),
        (("*",), "https://a", "b", True),
    ],
)
def test_a_page_is_allowed_from_the_gateways_own_host_or_a_listed_origin(
    origins: tuple[str, ...], origin: str | None, host: str, allowed: bool
) -> None:
    assert OriginPolicy(origins).allow_origin(origin, host) is allowed


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
