"""The floor: one sweep over all rows in C, with nothing between the arrays and the sums.

Residual, Jacobian and normal equations are computed in loops that GCC vectorises, the elementary
functions included (``-ffast-math`` lets it call libmvec). There are two forms, and the faster one
is the floor: a single loop over the rows, and blocks of rows that stay in the first-level cache,
where one loop computes the columns of the Jacobian and another one their products. With many
parameters the sums of the single loop do not fit in the registers: two peaks take it twice as long.
"""

import ctypes
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from .problems import Problem

FLAGS = ("-O3", "-march=native", "-ffast-math")
FORMS = ("loop", "blocks")
_BLOCK_ROWS = 512
_SOURCE = """
#include <math.h>

#define PARAMS {params}

void loop(const double *restrict xs, const double *restrict ys, long n,
          const double *restrict p, double *restrict sums)
{{
    PARAMS
{zeros}
    for (long i = 0; i < n; i++) {{
        const double x = xs[i], y = ys[i];
{row}
        const double r = value - y;
{additions}
    }}
{results}
}}

void blocks(const double *restrict xs, const double *restrict ys, long n,
            const double *restrict p, double *restrict sums)
{{
    PARAMS
    double kept[{n_columns}][{block_rows}];
    for (long first = 0; first < n; first += {block_rows}) {{
        const long m = n - first < {block_rows} ? n - first : {block_rows};
        for (long i = 0; i < m; i++) {{
            const double x = xs[first + i], y = ys[first + i];
{row}
            const double r = value - y;
{stores}
        }}
{zeros}
        for (long i = 0; i < m; i++) {{
{loads}
{additions}
        }}
{results}
    }}
}}
"""


class Floor:
    """The normal equations of a problem in C, on several threads.

    Parameters
    ----------
    problem : Problem
    form : {"loop", "blocks"}
    n_threads : int
        Each sweeps over one part of the rows.
    directory : Path
        Where the source and the library are written.
    """

    def __init__(self, problem: Problem, form: str, n_threads: int, directory: Path) -> None:
        source = directory / f"{problem.name}.c"
        library = source.with_suffix(".so")
        if not library.exists():
            source.write_text(source_of(problem))
            # Linked apart: with -ffast-math the linker adds code that, once loaded, takes subnormal
            # numbers for 0 in everything that the process computes.
            made = library.with_suffix(".o")
            subprocess.run(["cc", *FLAGS, "-fPIC", "-c", "-o", made, source], check=True)
            link = ["cc", "-shared", "-o", library, made, "-lmvec", "-lm"]
            subprocess.run(link, check=True)
        self._sweep = ctypes.CDLL(str(library))[form]
        self._sweep.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_long] + [ctypes.c_void_p] * 2
        self._sweep.restype = None
        self._n_sums = len(_sums(len(problem.truth)))
        self._n_threads = n_threads
        self._pool = ThreadPoolExecutor(n_threads)

    def equations(self, x: np.ndarray, y: np.ndarray, params: np.ndarray) -> np.ndarray:
        """Return cost, gradient and the upper triangle of the Gram matrix, row by row, (n_sums,).

        Parameters
        ----------
        x, y : ndarray of shape (n_rows,), contiguous float64
        params : ndarray of shape (n_params,), float64
        """
        bounds = np.linspace(0, x.size, self._n_threads + 1).astype(int)

        def sweep(first: int, stop: int) -> np.ndarray:
            sums = np.zeros(self._n_sums)
            # ctypes lets the other threads run meanwhile.
            self._sweep(
                x[first:].ctypes.data,
                y[first:].ctypes.data,
                int(stop - first),
                params.ctypes.data,
                sums.ctypes.data,
            )
            return sums

        return np.sum(list(self._pool.map(sweep, bounds[:-1], bounds[1:])), axis=0)


def source_of(problem: Problem) -> str:
    """Return the C source of a problem's sweep, in both forms."""
    n_params = len(problem.truth)
    columns = ["r", *(f"j{i}" for i in range(n_params))]
    sums = _sums(n_params)
    return _SOURCE.format(
        params=" ".join(f"const double p{i} = p[{i}];" for i in range(n_params)),
        row=problem.c_row,
        n_columns=len(columns),
        block_rows=_BLOCK_ROWS,
        stores="\n".join(f"kept[{k}][i] = {column};" for k, column in enumerate(columns)),
        loads="\n".join(
            f"const double {column} = kept[{k}][i];" for k, column in enumerate(columns)
        ),
        zeros="\n".join(f"double s{i} = 0;" for i in range(len(sums))),
        additions="\n".join(f"s{i} += {term};" for i, term in enumerate(sums)),
        results="\n".join(f"sums[{i}] += s{i};" for i in range(len(sums))),
    )


def _sums(n_params: int) -> list[str]:
    """Return what each row adds to each sum."""
    gradient = [f"j{i} * r" for i in range(n_params)]
    gram = [f"j{i} * j{j}" for i in range(n_params) for j in range(i, n_params)]
    return ["0.5 * r * r", *gradient, *gram]
