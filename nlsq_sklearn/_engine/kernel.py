"""One chunk of rows -> its normal equations: the compiled programs. JAX lives here.

A chunk is worked through in blocks that stay in the cache, inside one compiled call. The number of
rows is an argument of that call, not a part of its shape: the last block begins so early that it
is full, and what lies behind the rows is not looked at. So one program serves every chunk of a
fit, the samples of its warm-up included. A chunk of less than a block is filled up with copies of
its last row.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from . import curve
from .curve import Jacobian
from .device import known_device
from .equations import Equations, n_packed
from .loss import ROBUST_LOSSES
from .model import TracedModel
from .operands import SLACK, Operand, operand
from .programs import ProgramKey, run_program
from .spread import Spread

BLOCK_ROWS = 4096
"""Rows in a block: (n_params + 1) x 32 KB of columns, which a core's second-level cache holds."""

N_PLACES = 7
"""Numbers in the places of a chunk; see `Arguments`."""

Arrays = tuple[jax.Array, ...]

_LANES = 4  # float64 numbers side by side in a vector register; rows are a multiple of it
# Sums of products of a few columns are fastest in one sweep over the rows; the program's size
# grows with the square of the number of parameters, and from here on a matrix product wins.
_MOST_PARAMS_IN_ONE_SWEEP = 10
# Up to here chunks are padded to powers of two: the folds of a cross-validation, and the batches of
# a stream, share a program although their sizes differ.
_LARGEST_POWER = 262_144


class Arguments(NamedTuple):
    """What a compiled program takes of a chunk, the same at each point.

    Attributes
    ----------
    shape : tuple of int
        Of the predictors, with the capacity of the chunk for its rows.
    places : ndarray of shape (N_PLACES,)
        The blocks, the rows, where the last block begins, and where x, y, sigma and weight begin in
        their memory. In one array: each argument takes its time on the way.
    memories : tuple of array or None
        Of x, y, sigma and weight.
    """

    shape: tuple[int, ...]
    places: np.ndarray
    memories: tuple[Any, ...]


class Chunk(NamedTuple):
    """A chunk of rows as the compiled programs take it, padded where they are not taken in place.

    Attributes
    ----------
    x : ndarray of shape (rows,) or (n_features, rows)
    y : ndarray of shape (rows,)
    sigma, weight : ndarray of shape (rows,) or None
        Standard deviation of each row; how many times it counts.
    n_rows : int
        The rows that are not padding.
    capacity : int
        The rows that the programs take; chunks of other sizes share them.
    spread : Spread or None
        How y scatters about its mean, where that is known.
    ready : Arguments or None
        What the programs take of it, where that is known.
    """

    x: Any
    y: Any
    sigma: Any
    weight: Any
    n_rows: int
    capacity: int
    spread: Spread | None = None
    ready: Arguments | None = None

    @property
    def n_counted(self) -> int:
        """The rows whose weight is not 0: those that the errors of the parameters know of."""
        if self.weight is None:
            return self.n_rows
        return int(np.count_nonzero(np.asarray(self.weight)[: self.n_rows]))

    def arguments(self) -> Arguments:
        """Return what the programs take of the chunk."""
        if self.ready is not None:
            return self.ready
        operands = [
            None if column is None else operand(column, self.capacity)
            for column in (self.x, self.y, self.sigma, self.weight)
        ]
        return as_arguments(self.x.shape[:-1], self.n_rows, self.capacity, operands)

    def to_device(self) -> "Chunk":
        """Return the chunk with its numbers in the memory that the programs compute on."""
        ready = self.arguments()
        device = known_device()
        if device is not None and device.platform != "cpu":
            with jax.enable_x64(True):
                moved = [
                    None if part is None else jax.device_put(part, device)
                    for part in ready.memories
                ]
            ready = ready._replace(memories=tuple(moved))
        return self._replace(ready=ready)


def as_arguments(
    features: tuple[int, ...], n_rows: int, capacity: int, operands: Sequence[Operand | None]
) -> Arguments:
    """Return what the programs take of a chunk of which x, y, sigma and weight are these.

    Parameters
    ----------
    features : tuple of int
        The shape of the predictors but for the rows: (), or (n_features,).
    n_rows, capacity : int
        See `Chunk`.
    """
    starts = [0 if part is None else part.start for part in operands]
    block_rows = _rows_of_block(capacity)
    n_blocks = -(-n_rows // block_rows)
    last_place = max(n_rows - block_rows, 0)
    return Arguments(
        (*features, capacity),
        np.array([n_blocks, n_rows, last_place, *starts], dtype=np.float64),
        tuple([None if part is None else part.memory for part in operands]),
    )


class Objective(NamedTuple):
    """What is minimised: a model under a loss. ``f_scale`` has the unit of residual / sigma."""

    model: TracedModel
    loss: str
    f_scale: float


def padded_rows(n_rows: int) -> int:
    """Return the rows that a chunk of ``n_rows`` is padded to: few sizes, so few programs."""
    if n_rows > _LARGEST_POWER:
        return -(-n_rows // BLOCK_ROWS) * BLOCK_ROWS
    return max(64, 1 << (n_rows - 1).bit_length())


def _rows_of_block(capacity: int) -> int:
    return min(capacity, BLOCK_ROWS)


def evaluate(
    objective: Objective, chunk: Chunk, params: np.ndarray, *, any_angle: bool = False
) -> Equations:
    """Return the normal equations of a chunk.

    Parameters
    ----------
    params : ndarray of shape (n_params,)
    any_angle : bool
        Whether angles of more than 10^8 radians are known to be among them.

    Returns
    -------
    Equations
        Not finite where the model or its derivatives are not.
    """
    packed = _run(objective, chunk, params, None, any_angle=any_angle)
    return Equations.from_packed(packed, params.size, chunk.n_counted, chunk.spread)


def evaluate_many(objective: Objective, chunk: Chunk, points: np.ndarray) -> list[Equations]:
    """Return the normal equations of a chunk at each of the ``points``, (n_points, n_params)."""
    if len(points) == 1:
        return [evaluate(objective, chunk, points[0])]
    packed = _run(objective, chunk, points, len(points))
    rest = points.shape[1], chunk.n_counted, chunk.spread
    return [Equations.from_packed(row, *rest) for row in packed]


def _run(
    objective: Objective,
    chunk: Chunk,
    params: np.ndarray,
    n_points: int | None,
    *,
    any_angle: bool = False,
) -> np.ndarray:
    """Return the sums over a chunk, (n_sums,), at each of the points if there are several."""
    ready = chunk.arguments()
    model = objective.model
    key = program_key(objective, chunk, objective.loss, n_points=n_points, any_angle=any_angle)
    points = np.empty((*params.shape[:-1], model.n_params + 1))
    points[..., :-1] = params
    points[..., -1] = objective.f_scale

    # JAX 0.10 evaluates angles of any size slowly there.
    is_one_function = can_be_one_function(model) and not any_angle

    def build() -> Callable[..., Any]:
        kernel = sums_of_chunk(model, objective.loss, any_angle=any_angle)
        if not is_one_function:
            kernel = _in_one_piece(kernel, n_packed(model.n_params) + 1)
        if n_points is None:
            return kernel
        return jax.vmap(kernel, in_axes=(0, None, None, None, None, None))

    arguments = (points, ready.places, *ready.memories)
    packed = run_program(key, build, arguments, is_one_function=is_one_function)
    if not any_angle and np.count_nonzero(packed[..., -1]):
        # Rare: angles of more than 10^8 radians, which the fast program can't reduce.
        return _run(objective, chunk, params, n_points, any_angle=True)
    return packed[..., :-1]


def program_key(
    objective: Objective,
    chunk: Chunk,
    purpose: str,
    *,
    n_points: int | None = None,
    any_angle: bool = False,
) -> ProgramKey:
    """Return the key of a program that evaluates an objective in such chunks."""
    return ProgramKey(
        objective.model.fingerprint,
        objective.model.n_params,
        purpose,
        chunk.arguments().shape,
        chunk.sigma is not None,
        chunk.weight is not None,
        n_points,
        any_angle,
    )


def can_be_one_function(model: TracedModel) -> bool:
    """Return whether the sums over a chunk can be compiled as `one_function` does it."""
    return model.is_plain and model.n_params <= _MOST_PARAMS_IN_ONE_SWEEP


def sums_of_chunk(
    model: TracedModel, loss: str, *, any_angle: bool = False
) -> Callable[..., jax.Array]:
    """Return the function from a chunk to its packed normal equations.

    The last sum counts the rows that another program must evaluate.
    """
    n_params = model.n_params
    n_sums = n_packed(n_params) + 1
    is_one_sweep = n_params <= _MOST_PARAMS_IN_ONE_SWEEP
    reduce_block = _reduce_in_one_sweep if is_one_sweep else _reduce_by_product

    def kernel(
        point: jax.Array,
        places: jax.Array,
        x: jax.Array,
        y: jax.Array,
        sigma: jax.Array | None,
        weight: jax.Array | None,
    ) -> jax.Array:
        block_rows = _rows_of_block(y.shape[0] - SLACK)

        def add_block(index: jax.Array, state: Arrays) -> Arrays:
            total, point, counters = state
            _, n_rows, last_place, *starts = counters
            *params, f_scale = point
            first = index * block_rows
            place = jnp.minimum(first, last_place)

            def block(array: jax.Array | None, start: jax.Array) -> Any:
                if array is None:
                    return None
                return lax.dynamic_slice_in_dim(array, start + place, block_rows, axis=-1)

            columns = [block(*pair) for pair in zip((x, y, sigma, weight), starts, strict=True)]
            rows = Chunk(columns[0], columns[1], columns[2], columns[3], block_rows, block_rows)
            numbers = place + jnp.arange(block_rows)
            counts = (numbers >= first) & (numbers < n_rows)
            if rows.weight is not None:
                counts &= rows.weight > 0
            jacobian = curve.evaluate(model, rows.x, params, n_rows > 0, any_angle=any_angle)
            terms = _row_terms(jacobian, loss, f_scale, rows)
            return total + reduce_block(terms, counts), point, counters

        # All goes through the loop, or XLA takes each number that it reads out of it on its own.
        counters = places.astype(jnp.int64)
        state = jnp.zeros((n_sums, _LANES)), point, counters
        lanes, *_ = lax.fori_loop(0, counters[0], add_block, state)
        # Never so, but in one function XLA of JAX 0.10 can't have an argument that is not used.
        unused = jnp.where(counters[0] < 0, point[0] + x[(0,) * x.ndim], 0.0)
        return jnp.asarray(lanes.sum(axis=1) + unused)

    return kernel


def _in_one_piece(kernel: Callable[..., jax.Array], n_sums: int) -> Callable[..., jax.Array]:
    """Return the kernel in a loop of a single round, which XLA compiles to few functions.

    For models that can't be compiled to one (see `one_function`). Outside of loops XLA calls a
    function for each operation, and more than eight of them by other threads; to wake one takes
    longer than a thousand rows.
    """

    def loop(point: jax.Array, places: jax.Array, *columns: jax.Array | None) -> jax.Array:
        def once(state: Arrays) -> Arrays:
            is_left, point, places, _ = state
            # What a loop leaves as it is, and what follows from that, XLA takes out of it.
            moved = (jnp.where(is_left, values, 0.0) for values in (point, places))
            return jnp.zeros_like(is_left), *moved, kernel(point, places, *columns)

        # Nor must it know the number of rounds.
        state: Arrays = (places[0] > 0, point, places, jnp.zeros(n_sums))
        return lax.while_loop(lambda state: state[0], once, state)[3]

    return loop


class _RowTerms(NamedTuple):
    """What each row adds to the sums, arrays of shape (rows,).

    ``columns`` are those of the Jacobian and ``residual`` is scaled so that the products of
    columns sum to the Gram matrix, and columns times residual to the gradient. ``is_left`` is 1
    where the row must be evaluated by another program.
    """

    cost: jax.Array
    model_norm: jax.Array
    columns: list[jax.Array]
    residual: jax.Array
    is_left: jax.Array


def _row_terms(jacobian: Jacobian, loss: str, f_scale: jax.Array, block: Chunk) -> _RowTerms:
    """Return what each row of a block adds, weighted and under the loss."""
    _, y, sigma, weight, *_ = block
    value, columns, is_out_of_range = jacobian
    residual = value - y
    if sigma is not None:
        value, residual = value / sigma, residual / sigma
        columns = [column / sigma for column in columns]
    cost = 0.5 * residual**2
    if loss != "linear":
        cost, columns, residual = _robust_terms(loss, f_scale, columns, residual)
    model_norm = 0.5 * value**2
    if weight is not None:
        root = jnp.sqrt(weight)
        cost, model_norm, residual = weight * cost, weight * model_norm, root * residual
        columns = [root * column for column in columns]
    is_left = jnp.zeros_like(y) if is_out_of_range is None else is_out_of_range.astype(y.dtype)
    return _RowTerms(cost, model_norm, columns, residual, is_left)


def _robust_terms(
    loss: str, f_scale: jax.Array, columns: list[jax.Array], residual: jax.Array
) -> tuple[jax.Array, list[jax.Array], jax.Array]:
    """Return cost, columns and residual under a robust loss, scaled as SciPy scales them.

    With ``z = (residual / f_scale)^2`` the Gauss-Newton approximation of the Hessian has the
    weight ``rho' + 2 rho'' z`` (kept positive), the gradient the weight ``rho'``.
    """
    z = (residual / f_scale) ** 2
    rho = ROBUST_LOSSES[loss](z)
    curvature = jnp.maximum(rho.first + 2 * rho.second * z, np.finfo(float).eps)
    root = jnp.sqrt(curvature)
    cost = 0.5 * f_scale**2 * rho.rho
    return cost, [root * column for column in columns], residual * rho.first / root


def _reduce_in_one_sweep(terms: _RowTerms, counts: jax.Array) -> jax.Array:
    """Sum all products of a block in one loop over its rows, shape (n_sums, lanes)."""
    columns = terms.columns
    products = [terms.cost, terms.model_norm, *(column * terms.residual for column in columns)]
    products += [
        columns[i] * columns[j] for i in range(len(columns)) for j in range(i, len(columns))
    ]
    products.append(terms.is_left)
    # where, not a factor of 0: padding may be infinite where the model overflows.
    operands = [jnp.where(counts, product, 0.0).reshape(-1, _LANES) for product in products]
    zeros = [jnp.zeros((), operand.dtype) for operand in operands]
    return jnp.stack(lax.reduce(operands, zeros, _add_each, dimensions=(0,)))


def _add_each(left: Any, right: Any) -> Any:
    """Return the sums; one function for all programs, since JAX keeps what it makes of each."""
    return [a + b for a, b in zip(left, right, strict=True)]


def _reduce_by_product(terms: _RowTerms, counts: jax.Array) -> jax.Array:
    """Sum all products of a block by one matrix product, shape (n_sums, lanes)."""
    n_params = len(terms.columns)
    stacked = jnp.stack([*terms.columns, terms.residual])
    stacked = lax.optimization_barrier(jnp.where(counts, stacked, 0.0))
    products = stacked @ stacked.T
    upper = np.triu_indices(n_params)
    sums = jnp.concatenate(
        [
            jnp.stack(
                [
                    jnp.sum(jnp.where(counts, terms.cost, 0.0)),
                    jnp.sum(jnp.where(counts, terms.model_norm, 0.0)),
                ]
            ),
            products[:-1, -1],
            products[:-1, :-1][upper],
            jnp.sum(jnp.where(counts, terms.is_left, 0.0))[np.newaxis],
        ]
    )
    return jnp.zeros((sums.size, _LANES)).at[:, 0].set(sums)
