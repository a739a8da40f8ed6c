"""URLs of MySQL, and the descriptions of columns as MariaDB extends them."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from pollcast.poller.mysql import driver
from pollcast.poller.mysql.driver import Address, address
from pollcast.poller.mysql.kind import MYSQL
from pollcast.poller.mysql.wire import Wire, without_metadata
from pollcast.poller.sources.inspection import Report, inspect
from pollcast.services.catalogue.query import Query
from pollcast.services.catalogue.sources import SourceEntry
from pollcast.services.cli.doctor.look_at_sources import look_at_source
from pollcast.services.errors import PollStale


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
        ("mysql://host/?connect_timeout=0", "has a connect_timeout that is no number of seconds"),
        (f"mysql://host/?connect_timeout={10**400}", "has a connect_timeout that is no number of seconds"),
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


async def test_a_server_that_answers_nonsense_is_named_so_and_ends_nothing_else() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(1000))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"mysql://me@127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        await driver._kill(address(url), "node-1", b"1")
        with pytest.raises(PollStale, match="the database can't be reached: the server's answer was not understood"):
            await inspect(MYSQL, [Query("q", "select 1")], "shop.toml", url, Report(notes={"q": []}))
        seen = await look_at_source(SourceEntry("shop", "SHOP_URL", "mysql"), None, {"SHOP_URL": url})
        assert (seen.problem or "").startswith("the server's answer was not understood")


def test_authorities_are_read_only_where_they_are_asked() -> None:
    for mode, verified, host in (
        ("PREFERRED", ssl.CERT_NONE, False),
        ("REQUIRED", ssl.CERT_NONE, False),
        ("VERIFY_CA", ssl.CERT_REQUIRED, False),
        ("VERIFY_IDENTITY", ssl.CERT_REQUIRED, True),
    ):
        options = driver._tls(address(f"mysql://host/?ssl-mode={mode}"))
        context = options["ssl"]
        assert (context.verify_mode, context.check_hostname) == (verified, host)
        assert verified or not context.get_ca_certs()
        assert options["tls_if_offered"] == (mode == "PREFERRED")
    assert driver._tls(address("mysql://host/?ssl-mode=DISABLED")) == {}
