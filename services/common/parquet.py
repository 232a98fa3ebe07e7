"""Columns of numpy arrays in Parquet files: a number a row, or a list of fixed size in C order."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from services.common.errors import PreconditionFailed


def pyarrow(extra: str) -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet.

    Args:
        extra: of the platform's package, by which they are installed.

    Raises:
        PreconditionFailed: when they are not there.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise PreconditionFailed(
            f"Parquet files need pyarrow: pip install 'tutelage-platform[{extra}]'"
        ) from None
    return pyarrow, pyarrow.parquet


def column_type(pa: Any, row: np.dtype[Any]) -> Any:
    """The type of a column, of what a row of it is: an element and its shape."""
    element = pa.from_numpy_dtype(row.base)
    return pa.list_(element, prod(row.shape)) if row.shape else element


def column(
    pa: Any, kind: Any, values: npt.NDArray[Any], missing: npt.NDArray[np.bool_] | None = None
) -> Any:
    """A column of values `(n, *shape)`.

    Args:
        kind: of `column_type`.
        missing: (n,), where a cell is empty, whatever its value.
    """
    values = np.ascontiguousarray(values)
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(values, kind, mask=missing)
    empty = None if missing is None else pa.array(missing)
    flat = pa.array(values.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, type=kind, mask=empty)
