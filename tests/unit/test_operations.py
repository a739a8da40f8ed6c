"""The operations of etcd's transactions, as messages."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pollcast.services.coordination import operations as op

KEYS = st.lists(st.tuples(st.text(min_size=1, max_size=5), st.text(min_size=1, max_size=5)), min_size=1, max_size=4)


@given(KEYS, st.binary(max_size=5), st.integers(0, 2**63 - 1))
def test_a_filled_in_claim_is_the_transaction_that_it_stands_for(
    keys: list[tuple[str, str]], value: bytes, lease: int
) -> None:
    filled_in = op.put_if_free(value, lease)
    messages = [filled_in(key, prefix) for key, prefix in keys]  # each is a copy of its own
    assert messages == [
        op.nested([op.absent(key), op.some_under(prefix)], [op.put(key, value, lease)], [op.read(key)])
        for key, prefix in keys
    ]
