"""Fields of a join payload that are named like parameters (docs/reference/channels.md#join)."""

from __future__ import annotations

from typing import Any

import pytest

from pollcast.gateway.join_payload import JoinPayload
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.errors import InvalidPayload

CATALOG = catalogue.parse(
    """
[queries.orders]
sql = "select %(region)s as a, %(since)s as b, %(tenant)s as c"
[queries.orders.params]
region = "text"
since = { type = "int", default = 1 }
tenant = { type = "text", claim = "tenant_id" }
""",
    "c.toml",
)


@pytest.mark.parametrize(
    ("payload", "detail"),
    [
        ({"region": "north"}, "parameters belong in the topic: join 'live:orders?region=…'"),
        ({"since": "1-1", "region": None}, "parameters belong in the topic: join 'live:orders?region=…'"),
        ({"tenant": "acme"}, "parameter 'tenant' is bound from the token: leave it out"),
    ],
)
def test_a_parameter_in_the_payload_is_refused(payload: Any, detail: str) -> None:
    with pytest.raises(InvalidPayload) as refused:
        JoinPayload.parse(payload).check_others(CATALOG.query("orders"))
    assert detail in refused.value.detail


@pytest.mark.parametrize("payload", [None, {}, {"since": "1-1"}, {"Region": "north", "token": "x", "": 1}])
def test_other_fields_are_ignored_and_those_of_the_protocol_keep_their_meaning(payload: Any) -> None:
    JoinPayload.parse(payload).check_others(CATALOG.query("orders"))
