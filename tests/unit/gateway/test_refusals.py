"""Refused pages, tokens and what is too large: each is counted, and logged once a minute at most."""

from __future__ import annotations

from typing import Any, cast, get_args

import orjson
import pytest
from structlog.testing import capture_logs
from websockets.asyncio.client import connect

from pollcast.gateway.entrance import MAX_TOKEN_CHARS, Entrance
from pollcast.gateway.handshake import Offer
from pollcast.gateway.identity import Authenticator
from pollcast.gateway.origin import OriginPolicy
from pollcast.services.catalogue.topics import MAX_TOPIC_BYTES
from pollcast.services.errors import Forbidden, Unauthorized
from pollcast.services.process.occasional import SECONDS, Occasional
from pollcast.services.serving import refusals
from pollcast.services.serving.refusals import Kind, refused
from tests.support.gateway_in_process import InProcessGateway
from tests.support.tokens import verifier


def counted(kind: Kind) -> float:
    """Return the number of refusals of this kind so far."""
    return next(
        sample.value
        for metric in refusals.REFUSED.collect()
        for sample in metric.samples
        if sample.name.endswith("_total") and sample.labels["kind"] == kind
    )


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_refusal_is_counted_each_time_and_logged_once_a_minute(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    with capture_logs() as lines:
        line = Occasional(refusals._log.warning, "refused", lambda: now[0])
        monkeypatch.setitem(refusals.LINES, kind, line)
        before = counted(kind)
        for _ in range(3):
            refused(kind, detail="why")
        now[0] = SECONDS
        refused(kind, detail="why")
    assert counted(kind) == before + 4
    assert [(each["event"], each["times"], each["detail"]) for each in lines] == [
        ("refused", 1, "why"),
        ("refused", 4, "why"),
    ]


def test_tokens_that_are_missing_wrong_or_too_long_are_counted_and_never_logged() -> None:
    with capture_logs() as lines:
        before = counted("token")
        for token in (None, "", "e30.e30.e30"):
            with pytest.raises(Unauthorized):
                Authenticator(verifier()).identify(token)
        with pytest.raises(Forbidden):
            _entrance().admit(_offer(query=b"vsn=2.0.0&token=" + b"x" * (MAX_TOKEN_CHARS + 1)))
    assert counted("token") == before + 4
    assert "e30" not in str(lines)
    assert "xxx" not in str(lines)


def test_a_page_of_a_foreign_origin_is_counted() -> None:
    before = counted("origin")
    with pytest.raises(Forbidden):
        _entrance().admit(_offer(origin="https://elsewhere.example"))
    assert counted("origin") == before + 1


def _entrance() -> Entrance:
    nothing = cast(Any, None)  # is not used before a handshake is refused
    return Entrance(nothing, Authenticator(verifier()), OriginPolicy(), nothing, nothing)


def _offer(query: bytes = b"vsn=2.0.0", origin: str | None = None) -> Offer:
    return Offer(query, "gateway.example", origin, [], b"", b"")


async def test_a_topic_that_is_too_long_is_counted_and_answered(gateway: InProcessGateway) -> None:
    before = counted("topic")
    async with connect(gateway.url) as client:
        await client.send(orjson.dumps(["1", "1", "live:keyed?n=" + "1" * MAX_TOPIC_BYTES, "phx_join", {}]).decode())
        reply = orjson.loads(await client.recv())
    assert reply[4]["response"]["reason"] == "invalid_params"
    assert counted("topic") == before + 1
