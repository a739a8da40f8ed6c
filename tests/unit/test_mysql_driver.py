"""URLs of MySQL, and the descriptions of columns as MariaDB extends them."""

from __future__ import annotations

import pytest

from pollcast.poller.mysql.driver import Address, address
from pollcast.poller.mysql.wire import Wire, without_metadata


def test_a_url_has_parts() -> None:
    found = address("mysql://us%40er:p%2Fw@[::1]:3307/shop?ssl-mode=VERIFY_CA&ssl-ca=/ca.pem&connect_timeout=2")
    options = {"ssl-mode": "VERIFY_CA", "ssl-ca": "/ca.pem", "connect_timeout": "2"}
    assert found == Address("::1", 3307, "us@er", "p/w", "shop", options)
    assert address("mariadb://host") == Address("host", 3306, "", "", "", {})
    assert address("mysql:///shop?socket=/run/mysqld.sock").options == {"socket": "/run/mysqld.sock"}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://user:secret@host/db", "is not a URL such as mysql://"),
        ("mysql://user:secret@host:port/db", "is not a URL such as mysql://"),
        ("mysql:///db", "is not a URL such as mysql://"),
        ("mysql://host/?secret", "is not a URL such as mysql://"),
        ("mysql://host/?secret=1", "has an option that does not exist"),
        ("mysql://host/?ssl-mode=secret", "has another ssl-mode than DISABLED"),
        ("mysql://host/?connect_timeout=secret", "has a connect_timeout that is no number of seconds"),
    ],
)
def test_a_wrong_url_is_refused_without_repeating_it(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as raised:
        address(url)
    assert "secret" not in str(raised.value)


def _texts(*texts: bytes) -> bytes:
    return b"".join(bytes([len(text)]) + text for text in texts)


def test_extended_metadata_name_the_format_of_a_column() -> None:
    names, rest = _texts(b"def", b"shop", b"t", b"t", b"a", b"a"), b"\x0c" + 12 * b"x"
    for metadata, format in {
        b"": "",
        b"\x01" + _texts(b"json"): "json",
        b"\x00" + _texts(b"uuid"): "",
        b"\x00" + _texts(b"point") + b"\x01" + _texts(b"json"): "json",
    }.items():
        assert without_metadata(names + _texts(metadata) + rest) == (names + rest, format)
    assert without_metadata(names + rest) == (names + rest, "")


def test_the_driver_has_what_a_wire_uses_beyond_its_documentation() -> None:
    from asyncmy.connection import MySQLResult

    members = ("_request_authentication", "_get_server_information", "_stream_broken", "write_packet", "read_packet")
    assert all(hasattr(Wire, name) for name in (*members, "query", "next_result", "prepare", "_deprecate_eof"))
    assert hasattr(MySQLResult, "_read_rowdata_packet_unbuffered")
    assert hasattr(MySQLResult, "_take_pending_rows")
