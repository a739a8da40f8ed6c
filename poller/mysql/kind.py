"""The kind `mysql`."""

from __future__ import annotations

from typing import Final

from pollcast.poller.mysql.dialect import MysqlDialect
from pollcast.poller.mysql.driver import MysqlDriver
from pollcast.poller.sources.source import SourceKind

MYSQL: Final = SourceKind(MysqlDialect(), MysqlDriver(), finite=True)
"""MySQL 8, and MariaDB from 10.6 on."""
