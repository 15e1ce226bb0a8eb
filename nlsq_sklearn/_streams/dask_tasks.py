"""What a Dask task does: it loads some chunks, one after the other, and reduces each of them."""

import pickle
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import cloudpickle
import numpy as np
from dask.typing import Key

from .._engine import kernel
from .._engine.equations import Equations
from .._engine.kernel import BLOCK_ROWS, Objective
from .arrays import DEFAULT_CHUNK_ROWS, ArrayStream
from .rows import Buffers


class Layout(NamedTuple):
    """What the arrays of each chunk are: the predictors, y, and the others that there are.

    ``usual_rows`` are those of most chunks; the programs take as many, and so a chunk in place.
    """

    x_name: str
    n_features: int
    has_sigma: bool
    has_weight: bool
    usual_rows: int

    @property
    def names(self) -> list[str]:
        """The names of the arrays, in their order."""
        return [
            self.x_name,
            "y",
            *(["sigma"] if self.has_sigma else []),
            *(["sample_weight"] if self.has_weight else []),
        ]


class Load(NamedTuple):
    """How the arrays of one chunk are computed.

    Attributes
    ----------
    first_row, n_rows : int
        The rows that the chunk has by the declaration of its arrays.
    steps : tuple of (key, node, keys)
        Nodes of Dask's graph in an order in which they can be computed, each with the keys of
        results that nobody needs any more after it.
    keys : tuple of keys
        Those of the arrays.
    needs : tuple of keys
        Results of other tasks that the nodes, or the arrays themselves, are.
    """

    first_row: int
    n_rows: int
    steps: tuple[tuple[Key, Any, tuple[Key, ...]], ...]
    keys: tuple[Key, ...]
    needs: tuple[Key, ...]

    def arrays(self, results: Mapping[Key, Any]) -> list[np.ndarray]:
        """Compute the arrays, given the results of other tasks."""
        computed = {key: results[key] for key in self.needs}
        for key, node, done in self.steps:
            computed[key] = node(computed)
            for other in done:
                del computed[other]
        return [computed[key] for key in self.keys]


class Travelling:
    """A function that is pickled once, for all tasks of a pass that take it to other processes.

    A model that is made within a function, or in a notebook, is pickled by value, which takes
    longer than a small task.
    """

    def __init__(self, function: Callable[[ArrayStream], Any]) -> None:
        self.function = function

    @cached_property
    def _pickled(self) -> bytes:
        return bytes(cloudpickle.dumps(self.function))

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (self._pickled,)


@lru_cache(maxsize=1)
def _arrived(pickled: bytes) -> Travelling:
    """Return the function in another process, the same one for all tasks of a pass.

    It stays there until another one comes.
    """
    return Travelling(pickle.loads(pickled))


class Reduction:
    """What a task does: the function of the rows of each of some chunks.

    Parameters
    ----------
    key : Key
        That of the task, which no other has.
    function : Travelling
        What is wanted of the rows of a chunk.
    layout : Layout
    loads : tuple of Load
        How each chunk is computed.
    needs : tuple of keys
        Results of other tasks that these need.
    """

    def __init__(
        self,
        key: Key,
        function: Travelling,
        layout: Layout,
        loads: tuple[Load, ...],
        needs: tuple[Key, ...],
    ) -> None:
        self._key = key
        self._function = function
        self._layout = layout
        self._loads = loads
        self._needs = needs

    def __dask_tokenize__(self) -> Key:
        # Dask would else pickle the model, and look through all of it, for each task.
        return self._key

    def __call__(self, *results: Any) -> tuple[Any, ...]:
        """Return the result of each chunk; only one chunk is in memory at a time."""
        others = dict(zip(self._needs, results, strict=True))
        buffers, layout, function = Buffers(), self._layout, self._function.function
        return tuple(
            function(open_chunk(load.arrays(others), layout, load.first_row, load.n_rows, buffers))
            for load in self._loads
        )


def open_chunk(
    arrays: Sequence[Any], layout: Layout, first_row: int, n_rows: int, buffers: Buffers
) -> ArrayStream:
    """Return the rows of a chunk.

    Parameters
    ----------
    arrays : sequence of ndarray
        Those of the layout, in its order.
    first_row, n_rows : int
        The rows that the chunk has by the declaration of its arrays.
    buffers : Buffers
        Where it may be copied to.

    Raises
    ------
    ValueError
        If its arrays don't have the shapes that they were declared with.
    """
    if any(np.shape(array) != (n_rows,) for array in arrays):
        for name, array in zip(layout.names, arrays, strict=True):
            _check_shape(name, array, n_rows, layout.n_features)
    # Fewer are padded, and more worked through in parts, to sizes that programs share.
    is_usual = n_rows <= layout.usual_rows and BLOCK_ROWS <= layout.usual_rows < DEFAULT_CHUNK_ROWS
    x, y, *rest = arrays
    return ArrayStream(
        x,
        y,
        rest[0] if layout.has_sigma else None,
        rest[-1] if layout.has_weight else None,
        buffer_rows=layout.usual_rows if is_usual else None,
        is_table=True,
        x_name=layout.x_name,
        first_row=first_row,
        buffers=buffers,
    )


def _check_shape(name: str, array: Any, n_rows: int, n_features: int) -> None:
    # Dask believes what a chunk declares: a function that drops rows of all arrays alike would go
    # unseen, and the rows behind it would be counted at the wrong places.
    shape = np.shape(array)
    is_table = len(shape) == 2
    if shape[:1] != (n_rows,) or (is_table and shape[1] != n_features):
        expected = (n_rows, n_features) if is_table else (n_rows,)
        raise ValueError(
            f"{name} has the shape {shape} in this chunk, expected {expected} by the chunks that "
            "the Dask array declares. Call compute_chunk_sizes() on an array whose chunks have "
            "other sizes than it says, or mend the function that makes them."
        )


def sum_rows(
    rows: ArrayStream, objective: Objective, points: np.ndarray, *, is_checked: bool
) -> tuple[Equations, ...]:
    """Return the equations of a chunk of the arrays, itself worked through in smaller ones."""
    if is_checked:
        rows.trust()
    total: list[Equations] = []
    for index in range(rows.n_chunks):
        chunk = rows.chunk(index)
        parts = [kernel.evaluate(objective, chunk, point) for point in points]
        total = [a + b for a, b in zip(total, parts, strict=True)] if total else parts
    return tuple(total)
