"""The keys and metas with which clients are listed, and those that are refused."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from pollcast.gateway.identity import ANONYMOUS, Identity
from pollcast.gateway.presence_keys import MemberId
from pollcast.gateway.presence_request import RESERVED_KEYS, PresenceRequest, check_key, check_meta
from pollcast.gateway.roster import Member
from pollcast.services.catalogue.query import Query
from pollcast.services.catalogue.topics import Topic
from pollcast.services.errors import InvalidPayload

WITH_PRESENCE = Topic("room", Query("room", "select 1", presence=True), {})
WITHOUT_PRESENCE = Topic("rows", Query("rows", "select 1"), {})


@pytest.mark.parametrize("key", [*sorted(RESERVED_KEYS), "", "a" * 257, "é" * 129, "a\0b"])
def test_a_key_that_a_client_could_not_hold_is_refused(key: str) -> None:
    with pytest.raises(InvalidPayload):
        PresenceRequest.of(WITH_PRESENCE, {"key": key}, ANONYMOUS)


@pytest.mark.parametrize(
    "meta", [[], "x", 5, {"a": "b" * 1020}, orjson.loads(b'{"a":' + b"[" * 250 + b"]" * 250 + b"}")]
)
def test_a_meta_that_is_no_object_or_too_large_or_too_deep_is_refused(meta: Any) -> None:
    with pytest.raises(InvalidPayload):
        check_meta(meta)


def test_a_key_of_256_bytes_and_a_meta_of_one_kibibyte_are_accepted() -> None:
    assert check_key("é" * 128)
    assert check_meta({"a": "b" * (1024 - len('{"a":""}'))})


def test_a_client_is_listed_by_its_token_s_subject_or_by_the_key_that_it_sent() -> None:
    token = Identity(subject="ann")
    assert PresenceRequest.of(WITH_PRESENCE, None, token) == PresenceRequest("ann", {})
    assert PresenceRequest.of(WITH_PRESENCE, {"meta": {"a": 1}}, token) == PresenceRequest("ann", {"a": 1})
    assert PresenceRequest.of(WITH_PRESENCE, {"key": "ann"}, token) == PresenceRequest("ann", {})
    assert PresenceRequest.of(WITH_PRESENCE, {"key": "bob"}, ANONYMOUS) == PresenceRequest("bob", {})
    assert PresenceRequest.of(WITH_PRESENCE, None, ANONYMOUS) is None
    assert PresenceRequest.of(WITH_PRESENCE, {"meta": {"a": 1}}, ANONYMOUS) is None
    assert PresenceRequest.of(WITHOUT_PRESENCE, None, token) is None
    for topic, payload, identity in (
        (WITH_PRESENCE, {"key": "bob"}, token),
        (WITH_PRESENCE, {"meta": []}, ANONYMOUS),
        (WITHOUT_PRESENCE, {}, ANONYMOUS),
    ):
        with pytest.raises(InvalidPayload):
            PresenceRequest.of(topic, payload, identity)


def test_a_meta_cannot_forge_the_ref_and_the_time() -> None:
    member = Member.of(MemberId("gw", "r1"), "ann", "t", {"phx_ref": "x", "online_at": "y", "name": 1})
    assert orjson.loads(member.meta) == {"phx_ref": "r1", "online_at": "t", "name": 1}
