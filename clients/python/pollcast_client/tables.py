"""Rows in the forms of other libraries: objects of a class of your own, pandas, Arrow. Pure: no I/O."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, is_typeddict

if TYPE_CHECKING:
    import pandas
    import pyarrow

T = TypeVar("T")


def rows_as(rows: Sequence[dict[str, Any]], model: Callable[..., T]) -> list[T]:
    """Return rows as objects of a class: a Pydantic model (validated), a dataclass, or a TypedDict.

    Any other callable is called with each row. Raises what the class raises for a row that it does not accept.
    """
    validate = getattr(model, "model_validate", None)
    if validate is not None:
        return [validate(row) for row in rows]
    if dataclasses.is_dataclass(model) or is_typeddict(model):
        return [model(**row) for row in rows]
    return [model(row) for row in rows]


def to_pandas(rows: Sequence[dict[str, Any]], key: Sequence[str]) -> pandas.DataFrame:
    """Return rows as a pandas DataFrame, with the key columns as its index if there are any.

    Integers beyond 64 bits, and columns of mixed types, are columns of Python objects. Raises ImportError when pandas
    is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise ImportError("to_pandas needs pandas: pip install 'pollcast-client[pandas]'") from None
    columns = list(rows[0]) if rows else list(key)
    frame = pandas.DataFrame({name: _column(pandas, [row.get(name) for row in rows]) for name in columns})
    return frame.set_index(list(key)) if key else frame


def _column(pandas: Any, values: list[Any]) -> Any:
    """Return a column that loses no digit: pandas makes floats of integers beside None."""
    integers = all(value is None or type(value) is int for value in values)
    if not integers or None not in values or not any(values):
        return pandas.Series(values, dtype=None if values else object)
    small = all(value is None or -(2**63) <= value < 2**63 for value in values)
    return pandas.Series(values, dtype="Int64" if small else object)


def to_arrow(rows: Sequence[dict[str, Any]], key: Sequence[str]) -> pyarrow.Table:
    """Return rows as an Arrow table. A column that Arrow has no type for, such as integers beyond 64 bits or JSON of
    several shapes, has its values as JSON text. Raises ImportError when pyarrow is not installed."""
    try:
        import pyarrow
    except ImportError:
        raise ImportError("to_arrow needs pyarrow: pip install 'pollcast-client[arrow]'") from None
    columns: dict[str, Any] = {}
    for name in list(rows[0]) if rows else list(key):
        values = [row.get(name) for row in rows]
        try:
            columns[name] = pyarrow.array(values)
        except (pyarrow.ArrowException, TypeError, ValueError, OverflowError):
            columns[name] = pyarrow.array([None if value is None else json.dumps(value) for value in values])
    return pyarrow.table(columns)
