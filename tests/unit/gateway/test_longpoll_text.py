"""The text of long polling: batches that come in pieces, frames in answers, tokens (gateway/longpoll_text.py)."""

from __future__ import annotations

import orjson
from hypothesis import given
from hypothesis import strategies as st

from pollcast.gateway.longpoll_text import Batch, Credentials, messages_body, new_token, owner_name, owner_of
from pollcast.gateway.outbound_frames import frame

MOST = 8
SESSION = new_token(owner_name("shop.1"))
OTHER = new_token(owner_name("shop.2"))


def taken(pieces: list[bytes], *, lines: bool) -> list[bytes]:
    """Return the messages of a body that comes in these pieces."""
    batch = Batch(MOST, lines=lines)
    return [message for piece in pieces for message in batch.take(piece)] + list(batch.end())


@given(st.lists(st.text("ab \n\r", max_size=12).map(str.encode), max_size=8), st.booleans())
def test_a_batch_is_the_same_in_whatever_pieces_it_comes(pieces: list[bytes], lines: bool) -> None:
    body = b"".join(pieces)
    expected: list[bytes] = []
    for message in body.split(b"\n") if lines else [body]:
        if len(message) > MOST:
            expected.append(message[: MOST + 1])
            break
        if message:
            expected.append(message)
    assert taken(pieces, lines=lines) == expected


@given(st.lists(st.lists(st.text(max_size=20), max_size=3), max_size=3))
def test_an_answer_holds_the_texts_of_all_frames_in_order(groups: list[list[str]]) -> None:
    written = [b"".join(frame(text.encode()) for text in group) for group in groups]
    answer = orjson.loads(messages_body(SESSION, written))
    assert answer == {"status": 200, "token": SESSION, "messages": [text for group in groups for text in group]}


def test_frames_of_every_size_are_taken_apart() -> None:
    sizes = [0, 1, 125, 126, 65535, 65536, 200_000]
    answer = orjson.loads(messages_body(SESSION, [b"".join(frame(b"x" * size) for size in sizes)]))
    assert list(map(len, answer["messages"])) == sizes


def test_a_token_names_its_process_without_telling_the_name_and_no_two_are_alike() -> None:
    assert owner_of(SESSION) == owner_name("shop.1") != owner_name("shop.2")
    assert "shop" not in SESSION
    assert new_token(owner_name("shop.1")) != SESSION
    for other in ("", "lp.", SESSION[:-1], SESSION + "x", SESSION.upper(), "eyJhbGciOi.J9.x", f"{SESSION}\n"):
        assert owner_of(other) is None


def test_the_last_session_token_counts_and_the_header_comes_first() -> None:
    auth = {"x-phoenix-authtoken": "user"}
    for query, headers, expected in (
        ("vsn=2.0.0", {}, ("2.0.0", None, None)),
        ("vsn=2.0.0&", {}, ("2.0.0", None, None)),
        ("", auth, (None, None, "user")),
        ("token=a.b.c&vsn=2.0.0&", {}, ("2.0.0", None, "a.b.c")),
        (f"token=a.b.c&vsn=2.0.0&token={SESSION}", {}, ("2.0.0", SESSION, "a.b.c")),
        (f"token={OTHER}&token={SESSION}", auth, (None, SESSION, "user")),
        (f"token={OTHER}&token=", {"x-phoenix-longpoll-token": SESSION}, (None, SESSION, None)),
        ("token=a", {"x-phoenix-longpoll-token": "a guess"}, (None, "a guess", "a")),
    ):
        assert tuple(Credentials.read(query.encode(), headers)) == expected
