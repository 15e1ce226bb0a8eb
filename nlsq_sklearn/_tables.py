"""Tables whose faults scikit-learn's checks tell without the column."""

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def naming_columns(table: Any) -> Iterator[None]:
    """Name the columns without numbers in an error about a data frame that has some."""
    try:
        yield
    except (TypeError, ValueError) as error:
        names = _names_without_numbers(table)
        if not names:
            raise
        raise TypeError(
            f"X has columns that hold no numbers: {', '.join(names)}. Leave them out, or convert "
            f"them. ({str(error).strip()})"
        ) from error


def _names_without_numbers(table: Any) -> list[str]:
    """Return the columns of a pandas frame that hold text, times or the like."""
    items = getattr(getattr(table, "dtypes", None), "items", None)
    if items is None:
        return []
    return [repr(name) for name, dtype in items() if getattr(dtype, "kind", "O") not in "fiub"]
