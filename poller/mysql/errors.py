"""Errors of MySQL and MariaDB as poll errors. Pure.

A server's error has a number, which is exact, and an SQLSTATE, which often is the general HY000. Clients receive the
name that MySQL gives to the number, and the number, never the server's message.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pollcast.poller.sources.faults import Fault, poll_error
from pollcast.poller.sources.poll_error import PollError
from pollcast.services.catalogue.query import Query

NAMES: Final = {
    1040: "con_count_error",
    1053: "server_shutdown",
    1054: "bad_field_error",
    1055: "wrong_field_with_group",
    1064: "parse_error",
    1114: "record_file_full",
    1142: "tableaccess_denied_error",
    1143: "columnaccess_denied_error",
    1146: "no_such_table",
    1153: "net_packet_too_large",
    1205: "lock_wait_timeout",
    1213: "lock_deadlock",
    1222: "wrong_number_of_columns_in_select",
    1242: "subquery_no_1_row",
    1267: "cant_aggregate_2collations",
    1292: "truncated_wrong_value",
    1300: "invalid_character_string",
    1305: "sp_does_not_exist",
    1317: "query_interrupted",
    1365: "division_by_zero",
    1367: "illegal_value_for_type",
    1370: "procaccess_denied_error",
    1412: "table_def_changed",
    1525: "wrong_value",
    1582: "wrong_paramcount_to_native_fct",
    1630: "func_inexistent_name_collision",
    1690: "data_out_of_range",
    1792: "cant_execute_in_read_only_transaction",
    1927: "connection_killed",
    1969: "statement_timeout",
    3024: "query_timeout",
    3141: "invalid_json_text_in_param",
}
"""Names of errors that queries end with. The manuals of MySQL and MariaDB list all of them by number."""

TIMED_OUT: Final = frozenset({1317, 1969, 3024})
"""Errors of a statement that was canceled: by KILL QUERY, by MariaDB's max_statement_time, by max_execution_time."""

FAULTS: Final = {
    Fault.CANCELED: TIMED_OUT,
    Fault.LOCKED: {1205, 3572},
    Fault.OUT_OF_RESOURCE: {3, 1021, 1028, 1037, 1038, 1041, 1114, 1135, 1206, 1374, 1436, 3019, 4165},
    Fault.ROLLED_BACK: {1020, 1213, 1412, 1614, 1615},  # a deadlock, changed rows, a table that has just been altered
    Fault.UNAVAILABLE: {
        *(1040, 1047, 1053, 1077, 1078, 1079, 1129, 1152, 1158, 1159, 1160, 1161, 1184, 1203, 1226, 1927, 3032, 3168),
        4031,
    },
    Fault.STATEMENT: {1044, 1045, 1049, 1142, 1143, 1227, 1290, 1370, 1792},  # what the role may not do, no database
}
"""The errors of each class, beside those whose SQLSTATE says that the text is wrong."""

_PARSE_ERROR: Final = 1064
"""The error of a syntax that does not exist. It can depend on values, which are literals: `limit (-1)`."""


class ServerError(NamedTuple):
    """An error that the server has sent."""

    number: int
    sqlstate: str
    message: str


def classify(error: ServerError, query: Query, *, connected: bool = False, timed_out: bool = True) -> PollError:
    """Return the poll error for an error that a statement of the query ended with (sources/faults.py)."""
    number, statement = error.number, error.sqlstate.startswith("42")
    fault = next((fault for fault, numbers in FAULTS.items() if number in numbers), None)
    fault = fault or (Fault.STATEMENT if statement else Fault.TOPIC)
    refused = statement and not (number == _PARSE_ERROR and query.params)
    named = f"{NAMES.get(number, 'error')} ({number})"
    return poll_error(fault, named, query, error.message, connected=connected, timed_out=timed_out, refused=refused)
