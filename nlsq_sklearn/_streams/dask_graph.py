"""The graph of Dask arrays -> tasks that each load and reduce some chunks."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from dask.base import optimize
from dask.core import get_dependencies
from dask.task_spec import DataNode, GraphNode, Task, TaskRef
from dask.typing import Key
from dask.utils import ensure_dict

from .arrays import ArrayStream
from .dask_tasks import Layout, Load, Reduction, Travelling, open_chunk
from .memory_maps import is_mapped
from .rows import Buffers

# Dask takes about half a millisecond for a task, several on a cluster. Small chunks share tasks:
# up to so many rows, which take some milliseconds, and up to so many chunks.
_TASK_ROWS = 1_048_576
_TASK_CHUNKS = 64
# But reading a chunk may take far longer than reducing it, and then many workers shall share.
_LEAST_TASKS = 128
# Chunks that a cluster holds need no reading: more rows share a task, if each thread has some.
_HELD_TASK_ROWS = 16_777_216
_LEAST_TASKS_OF_A_THREAD = 4
# A chunk that is put together from more pieces than these is left to the workers side by side.
_MOST_STEPS = 64
_SHARED = -1
# Of chunks in memory so many are kept open from pass to pass, at a few kilobytes each.
_MOST_OPENED = 4096


class ChunkGraph:
    """How each chunk of some Dask arrays is computed, from a graph that is optimized once.

    All that only one chunk needs is computed within its task, so that a chunk is read and reduced
    without Dask's knowing of its parts; what several chunks need stays a task of its own.

    Parameters
    ----------
    arrays : sequence of Dask arrays
        The predictors, y, and the others of the layout, with the same chunks of rows.
    layout : Layout
    firsts : ndarray of shape (n_chunks,)
        First row of each chunk.
    sizes : sequence of int
        Rows of each.
    """

    def __init__(
        self, arrays: Sequence[Any], layout: Layout, firsts: np.ndarray, sizes: Sequence[int]
    ) -> None:
        self.arrays = list(arrays)
        self._graph: dict[Key, Any] = {}
        held = [_arrays_held(array) for array in arrays]
        # Of what is computed already there is nothing to optimize.
        optimized = arrays if all(held) else optimize(*arrays)
        for array, nodes in zip(optimized, held, strict=True):
            self._graph.update(nodes if all(held) else ensure_dict(array.__dask_graph__()))
        columns = [np.ndim(array) == 2 for array in optimized]
        self._keys = [
            tuple(key[0] if is_table else key for key, is_table in zip(keys, columns, strict=True))
            for keys in zip(*(array.__dask_keys__() for array in optimized), strict=True)
        ]
        self.layout = layout
        self._firsts = firsts
        self._sizes = sizes
        self._opened: dict[int, ArrayStream | None] = {}  # None is one that must be copied
        self._held: dict[int, list[Key]] = {}
        self._owners = self._find_owners()

    @property
    def is_held_by_cluster(self) -> bool:
        """Whether a cluster has computed chunks, or what they are made of, already."""
        return bool(self._held)

    @cached_property
    def is_in_memory(self) -> bool:
        """Whether all chunks are arrays in the memory of this process already."""
        nodes = map(self._graph.__getitem__, self._owners)
        return not self._held and all(isinstance(node, DataNode) for node in nodes)

    def open_in_memory(self, indices: Sequence[int]) -> None:
        """Open chunks in memory that need no copy, and keep them open for later passes."""
        buffers = Buffers()
        for index in indices:
            if index in self._opened or len(self._opened) == _MOST_OPENED:
                continue
            rows = self._open(index, buffers) if self._is_plain(index) else None
            self._opened[index] = rows if rows is not None and rows.keep_in_place() else None

    def _is_plain(self, index: int) -> bool:
        """Return whether the arrays of a chunk hold its rows as the programs take them.

        To open others may raise an error, which comes in its turn.
        """
        arrays, size = self._arrays_of(index), self._sizes[index]
        if not all(type(a) is np.ndarray and a.dtype == np.float64 for a in arrays):
            return False
        x, *others = arrays
        is_column = self.layout.n_features == 1 and x.shape in ((size,), (size, 1))
        has_rows = is_column and all(a.shape == (size,) for a in others)
        return has_rows and all(a.flags.c_contiguous and not is_mapped(a) for a in arrays)

    def reduce_in_memory(
        self, function: Callable[[ArrayStream], Any], index: int, buffers: Buffers
    ) -> Any:
        """Return the function of the rows of a chunk in memory."""
        return function(self._opened.get(index) or self._open(index, buffers))

    def _open(self, index: int, buffers: Buffers) -> ArrayStream:
        place = int(self._firsts[index]), self._sizes[index]
        return open_chunk(self._arrays_of(index), self.layout, *place, buffers)

    def _arrays_of(self, index: int) -> list[np.ndarray]:
        return [self._graph[key].value for key in self._keys[index]]

    def groups(self, indices: Sequence[int]) -> list[list[int]]:
        """Return the chunks, in order, that each task shall reduce."""
        n_chunks = self._chunks_of_a_task()
        grouped = itertools.groupby(indices, lambda index: index // n_chunks)
        return [list(group) for _, group in grouped]

    def groups_by_place(
        self, indices: Sequence[int], places: Mapping[Key, Sequence[str]], n_threads: int
    ) -> list[list[int]]:
        """Return the chunks that each task shall reduce where a cluster holds them.

        Parameters
        ----------
        places : mapping
            The addresses of the workers that hold each key.
        n_threads : int
            Of all workers.
        """
        rows = max(1, sum(self._sizes) // int(np.count_nonzero(self._sizes)))
        n_least = _LEAST_TASKS_OF_A_THREAD * max(n_threads, 1)
        most = min(_TASK_CHUNKS, _HELD_TASK_ROWS // rows, len(indices) // n_least)
        groups: list[list[int]] = []
        growing: dict[str, list[int]] = {}
        for index in indices:
            holders = [places.get(key) for key in self._held.get(index, ())]
            place = next((workers[0] for workers in holders if workers), "")
            group = growing.get(place)
            if group is None or len(group) >= max(most, 1):
                group = growing[place] = []
                groups.append(group)
            group.append(index)
        return groups

    def tasks(
        self, function: Travelling, name: str, groups: Sequence[Sequence[int]]
    ) -> tuple[dict[Key, Any], list[Key]]:
        """Return a graph that gives a tuple of results for each group, and the groups' keys.

        A key has the name and the chunks, so that it is the same in each process.
        """
        graph: dict[Key, Any] = {}
        for group in groups:
            loads = tuple(map(self._load, group))
            needs = tuple(dict.fromkeys(key for load in loads for key in load.needs))
            key: Key = (name, *group)
            refs = map(TaskRef, needs)
            graph[key] = Task(key, Reduction(key, function, self.layout, loads, needs), *refs)
        keys = list(graph)
        wanted = [key for task in graph.values() for key in task.dependencies]
        while wanted:
            key = wanted.pop()
            # What is not in the graph is held by a cluster already.
            if key not in graph and key in self._graph:
                graph[key] = self._graph[key]
                wanted.extend(self._dependencies(key))
        return graph, keys

    def _dependencies(self, key: Key) -> Any:
        node = self._graph[key]
        if isinstance(node, GraphNode):
            return node.dependencies
        return get_dependencies(self._graph, key)

    def _find_owners(self) -> dict[Key, int]:
        """Return for each key the only chunk that needs it, or that several do."""
        owners: dict[Key, int] = {}
        for index, keys in enumerate(self._keys):
            wanted = list(keys) if self._sizes[index] else []
            while wanted:
                key = wanted.pop()
                owner = owners.get(key)
                if owner in (index, _SHARED):
                    continue
                if key not in self._graph:
                    self._held.setdefault(index, []).append(key)
                    continue
                owners[key] = index if owner is None else _SHARED
                wanted.extend(self._dependencies(key))
        return owners

    def _chunks_of_a_task(self) -> int:
        # Data that a cluster holds would travel to the worker that holds another chunk, unless
        # they are grouped by place.
        if self.is_held_by_cluster:
            return 1
        n_filled = int(np.count_nonzero(self._sizes))
        most = _TASK_ROWS * n_filled // sum(self._sizes)
        return max(1, min(_TASK_CHUNKS, n_filled // _LEAST_TASKS, most))

    def _load(self, index: int) -> Load:
        """Return how a chunk is computed."""
        keys = self._keys[index]
        place = int(self._firsts[index]), int(self._sizes[index])
        order, needs = self._order(keys, index)
        if len(order) > _MOST_STEPS:
            return Load(*place, (), keys, tuple(dict.fromkeys(keys)))
        last_uses = {key: key for key in order}
        for key in order:
            last_uses |= dict.fromkeys(self._dependencies(key), key)
        done: dict[Key, list[Key]] = {key: [] for key in order}
        for key, last in last_uses.items():
            if key not in keys:
                done[last].append(key)
        steps = tuple((key, self._graph[key], tuple(done[key])) for key in order)
        return Load(*place, steps, keys, needs)

    def _order(self, keys: Sequence[Key], index: int) -> tuple[list[Key], tuple[Key, ...]]:
        """Return what only this chunk needs, each key after those it depends on, and the rest."""
        order: dict[Key, None] = {}
        needs: dict[Key, None] = {}
        visited = set()
        wanted = [(key, False) for key in keys]
        while wanted:
            key, are_dependencies_done = wanted.pop()
            if are_dependencies_done:
                order[key] = None
            elif not self._is_within(key, index):
                needs[key] = None
            elif key not in visited:
                visited.add(key)
                wanted.append((key, True))
                wanted.extend((other, False) for other in self._dependencies(key))
        return list(order), tuple(needs)

    def _is_within(self, key: Key, index: int) -> bool:
        """Return whether a key is computed in the task of a chunk."""
        return self._owners.get(key) == index and isinstance(self._graph[key], GraphNode)


def _arrays_held(array: Any) -> dict[Key, DataNode]:
    """Return the chunks of an array that was computed in this process; none if it was not."""
    layers = array.__dask_graph__().layers.values()
    if not all(layer.is_materialized() for layer in layers):
        return {}  # to write its tasks down takes long, and `optimize` does it again
    graph = ensure_dict(array.__dask_graph__())
    if not all(isinstance(value, (np.ndarray, DataNode)) for value in graph.values()):
        return {}
    return {
        key: value if isinstance(value, DataNode) else DataNode(key, value)
        for key, value in graph.items()
    }
