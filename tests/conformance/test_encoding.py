"""Conformance: values that a poller encodes itself become the JSON that PostgreSQL makes of them."""

from __future__ import annotations

import datetime
import random
import struct
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from pollcast.poller.sources import encoding
from pollcast.services.local.postgres_server import PostgresServer

RNG = random.Random(7)

FLOATS = [
    *(0.0, -0.0, 1.0, 0.1, 1e14, 1e15, 123456789012345.0, 1234567890123456.0, 1e16, 1e-4, 1e-5, 5e-324, 1.8e307),
    *(float("inf"), float("-inf"), float("nan")),
    *(RNG.uniform(-1e18, 1e18) for _ in range(300)),
    *(RNG.choice((-1, 1)) * RNG.random() * 10.0 ** RNG.randint(-20, 20) for _ in range(1000)),
    *(struct.unpack("d", RNG.randbytes(8))[0] for _ in range(1000)),
]
DECIMALS = [
    *map(Decimal, ("0", "0.00", "-1.50", "1e40", "1e-40", "NaN", "Infinity", "-Infinity", "12345678901234567890.5")),
    *(Decimal(RNG.randint(-(10**30), 10**30)).scaleb(RNG.randint(-40, 10)) for _ in range(300)),
]
TEXTS = ["", *(chr(n) for n in range(1, 0x200)), "a\u2028b 🎈\U0010ffff", "\\u0000", '"', "é\u0301", "\x7f\x80\x9f"]
MOMENT = datetime.datetime(1, 1, 1, tzinfo=datetime.UTC)
TIMESTAMPS = [
    MOMENT,
    *(MOMENT + datetime.timedelta(microseconds=RNG.randrange(3 * 10**17)) for _ in range(200)),
    *(MOMENT + datetime.timedelta(seconds=RNG.randrange(3 * 10**11)) for _ in range(200)),
]


@pytest.mark.parametrize(
    ("type", "values", "encode"),
    [
        ("float8", FLOATS, encoding.floating),
        ("numeric", DECIMALS, encoding.decimal),
        ("text", TEXTS, encoding.text),
        ("timestamptz", TIMESTAMPS, encoding.timestamp),
        ("timestamp", [value.replace(tzinfo=None) for value in TIMESTAMPS], encoding.timestamp),
        ("date", [value.date() for value in TIMESTAMPS], encoding.date),
        ("time", [value.time() for value in TIMESTAMPS], encoding.time),
        ("bytea", [b"", b"\x00\xff", RNG.randbytes(300)], encoding.binary),
        ("int8", [0, -(2**63), 2**63 - 1], encoding.integer),
        ("bool", [True, False], encoding.boolean),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_a_value_is_encoded_as_postgresql_encodes_it(
    postgres_server: PostgresServer, type: str, values: Sequence[Any], encode: Callable[[Any], bytes]
) -> None:
    with psycopg.connect(postgres_server.url) as connection:
        connection.execute("set timezone = 'UTC'")
        asked = f"select pg_catalog.to_json(v)::text from unnest(%s::{type}[]) with ordinality as u(v, n) order by n"
        found = [text.encode() for (text,) in connection.execute(asked.encode(), (list(values),))]
    encoded = zip(values, map(encode, values), found, strict=True)
    wrong = [(value, ours, theirs) for value, ours, theirs in encoded if ours != theirs]
    if encode is encoding.floating:  # beyond 2^53 PostgreSQL takes a digit more than it needs, now and then
        wrong = [each for each in wrong if abs(each[0]) < 2**53 or float(each[1]) != float(each[2])]
    assert not wrong[:5]
