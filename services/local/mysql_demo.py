"""The demo of `pollcast up --demo mysql`: a shop in MariaDB, which the server itself keeps busy by an event.

About ten orders come per second, are paid after a moment, and are deleted after an hour. The catalogue
examples/mysql.toml has queries on them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pollcast import examples
from pollcast.services.local.mariadb_server import MariadbServer

CATALOG: Final = Path(examples.__file__).parent / "mysql.toml"
"""The demo's catalogue, in a checkout and in an installed package."""

URL_VARIABLE: Final = "SHOP_URL"
"""The environment variable that the catalogue names for the shop's URL."""

DATABASE: Final = "shop"

STATEMENTS: Final = (
    "create database if not exists shop",
    "use shop",
    "create table if not exists regions (id int primary key, name varchar(20) not null)",
    "insert ignore into regions values (1, 'north'), (2, 'south'), (3, 'east'), (4, 'west')",
    "create table if not exists orders (id bigint unsigned auto_increment primary key, region int not null,"
    " total decimal(10, 2) not null, status enum('open', 'paid', 'cancelled') not null default 'open',"
    " created_at timestamp(3) not null default current_timestamp(3), index (created_at))",
    "create or replace definer = root@localhost event customers on schedule every 1 second do"
    " begin declare turn int default 0;"
    " while turn < 9 do insert into orders (region, total) values (1 + floor(rand() * 4), 1 + rand() * 200);"
    " update orders set status = if(rand() < 0.9, 'paid', 'cancelled')"
    " where status = 'open' order by rand() limit 1;"
    " do sleep(0.1); set turn = turn + 1; end while; end",
    "create or replace definer = root@localhost event forget on schedule every 1 minute do"
    " delete from orders where created_at < now() - interval 1 hour",
)
"""Statements that the server runs at each start, each on a line of its own."""


def start(data_dir: Path, log: Path) -> MariadbServer:
    """Start MariaDB with the shop. Raises MariadbMissing where it is not installed, ProcessFailed if it fails."""
    data_dir.mkdir(parents=True, exist_ok=True)
    script = data_dir / "shop.sql"
    script.write_text("".join(f"{statement};\n" for statement in STATEMENTS))
    options = {"init-file": str(script.resolve()), "event-scheduler": "on"}
    return MariadbServer.start(data_dir / "data", log=log, options=options)
