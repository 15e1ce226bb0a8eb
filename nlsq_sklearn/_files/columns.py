"""Which columns of a file are what, and what is said where one can't be."""

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROWS_AT_ONCE = 262_144
"""Row groups and chunks of a file are read together up to so many rows: tasks cost little then."""

_MOST_NAMES_SHOWN = 20


class Columns(NamedTuple):
    """Which columns of a file are what, by name or by number.

    Attributes
    ----------
    x : sequence of str
        The predictors.
    y : str
    sigma, weight : str or None
    """

    x: Sequence[str]
    y: str
    sigma: str | None = None
    weight: str | None = None

    @property
    def names(self) -> list[str]:
        """Each column that is read, once."""
        others = (name for name in (self.y, self.sigma, self.weight) if name is not None)
        return list(dict.fromkeys([*self.x, *others]))

    def pick(self, arrays: Mapping[str, Any]) -> tuple[Any, Any, Any, Any]:
        """Return the predictors, y, sigma and weight from the arrays of the columns."""
        x = [arrays[name] for name in self.x]
        sigma, weight = (None if n is None else arrays[n] for n in (self.sigma, self.weight))
        return x[0] if len(x) == 1 else x, arrays[self.y], sigma, weight


def check_names(wanted: Sequence[str], names: Sequence[str], path: str) -> None:
    """Raise if a column is not there, and tell which are.

    Raises
    ------
    ValueError
        With the nearest name.
    """
    for name in wanted:
        if names.count(name) > 1:
            raise ValueError(f"{path} has {names.count(name)} columns of the name {name!r}.")
        if name in names:
            continue
        folded = {other.casefold(): other for other in names}
        near = difflib.get_close_matches(name.casefold(), folded, 1)
        hint = f" Did you mean {folded[near[0]]!r}?" if near else ""
        if list(names) == [str(i) for i in range(len(names))]:
            hint = " Its columns have no names: give their numbers."
        shown = ", ".join(names[:_MOST_NAMES_SHOWN])
        more = f" and {len(names) - _MOST_NAMES_SHOWN} more" * (len(names) > _MOST_NAMES_SHOWN)
        raise ValueError(f"{path} has no column {name!r}.{hint} It has: {shown}{more}.")


def check_types(arrays: Mapping[str, Any], path: str) -> None:
    """Raise if an array of a column holds no real numbers."""
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise wrong_type(name, array.dtype, path)


def wrong_type(name: str, kind: Any, path: str) -> ValueError:
    """Return the error for a column that holds no real numbers."""
    words = "text" if "string" in str(kind) or str(kind).startswith("<U") else str(kind)
    return ValueError(
        f"The column {name!r} of {path} holds {words}, and a fit needs real numbers. Convert it "
        "first: a time, for instance, to seconds since the first one."
    )


def identity_of(path: Path) -> tuple[str, int, int, int]:
    """Return what tells a file from others: its name, and when and how large it was written."""
    status = path.stat()
    return os.path.abspath(path), status.st_ino, status.st_size, status.st_mtime_ns


def needs(package: str, path: str) -> ImportError:
    """Return the error for a package that is not installed."""
    return ImportError(
        f"Reading {path} needs the package {package}: pip install 'nlsq_sklearn[files]'."
    )
