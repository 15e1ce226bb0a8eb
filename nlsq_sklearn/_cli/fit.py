"""``nlsq-sklearn fit``: a curve to the columns of a file."""

import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from .._engine.loss import LOSS_NAMES
from .._engine.remembered import traced
from .._files import Columns, open_file
from .._problem import as_bounds, as_start, as_tolerances, names_of
from .._result import CurveFitResult
from .._storage import absolute, as_url
from .._survey import SavedFit, state_of
from ..optimizer import AdaptiveHybridStreamingOptimizer
from .messages import INTERRUPTED, debug_option, plainly, say
from .model import load_model, source_of
from .output import print_json, to_json
from .record import progress

_logger = logging.getLogger("nlsq_sklearn.cli")


class _Numbers(click.ParamType):
    """Numbers with commas between them; one alone stands for all parameters."""

    name = "numbers"

    def __init__(self, *words: str) -> None:
        self._words = words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in self._words or not isinstance(value, str):
            return value
        try:
            return [float(number) for number in value.split(",")]
        except ValueError:
            words = "".join(f", or {word}" for word in self._words)
            self.fail(f"{value!r} is not numbers with commas between them, as 1,0.5,-2{words}.")


def _options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a decorator that adds options, shown in their order."""

    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


_columns = _options(
    click.option("--x", multiple=True, required=True, metavar="COL", help="Predictor; repeatable."),
    click.option("--y", required=True, metavar="COL", help="What is fitted."),
    click.option("--sigma", metavar="COL", help="Standard deviation of each row."),
    click.option("--weight", metavar="COL", help="How much each row counts, as 1 / sigma**2."),
    click.option(
        "--absolute-sigma", is_flag=True, help="Take sigma as it is, not only its ratios."
    ),
)
_problem = _options(
    click.option(
        "--p0",
        type=_Numbers("auto"),
        help="Start, as 1,0.5,-2, or auto: the model's own guess, which is taken where it has one.",
    ),
    click.option(
        "--lower", type=_Numbers(), help="Lower bounds, one or one for each; may be -inf."
    ),
    click.option("--upper", type=_Numbers(), help="Upper bounds, one or one for each; may be inf."),
    click.option("--loss", type=click.Choice(LOSS_NAMES), default="linear", show_default=True),
    click.option(
        "--f-scale", type=float, default=1.0, help="Residual from which a row is an outlier."
    ),
    click.option("--n-starts", type=click.IntRange(1), default=1, help="Starts within the bounds."),
    click.option("--max-iter", type=click.IntRange(1), default=1000, help="Steps to try."),
)
_saving = _options(
    click.option("--checkpoint", metavar="DIR", help="Save the fit there as it goes."),
    click.option(
        "--interval",
        type=click.FloatRange(0),
        default=60.0,
        show_default=True,
        help="Seconds between saves.",
    ),
    click.option(
        "--resume", is_flag=True, help="Go on from the checkpoint; start where there is none."
    ),
    click.option("--chunk-size", type=click.IntRange(1), help="Rows worked on at once."),
)
_output = _options(
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
    click.option("-o", "--output", metavar="FILE", help="Write the result to a file, as JSON."),
    click.option("-q", "--quiet", is_flag=True, help="No progress, and no notes on it."),
    click.option("-v", "--verbose", is_flag=True, help="Tell each pass and each save."),
)


@dataclass(frozen=True)
class Request:
    """What the options ask for; named as they are."""

    x: tuple[str, ...]
    y: str
    sigma: str | None
    weight: str | None
    absolute_sigma: bool
    p0: Any
    lower: list[float] | None
    upper: list[float] | None
    loss: str
    f_scale: float
    n_starts: int
    max_iter: int
    checkpoint: str | None
    interval: float
    resume: bool
    chunk_size: int | None
    as_json: bool
    output: str | None
    quiet: bool
    verbose: bool
    debug: bool

    @property
    def columns(self) -> Columns:
        """Which columns are what."""
        return Columns(self.x, self.y, self.sigma, self.weight)

    @property
    def bounds(self) -> Any:
        """The bounds, or None where none are given: the model's own are taken then."""
        if self.lower is None and self.upper is None:
            return None
        sides = (self.lower or [-np.inf], self.upper or [np.inf])
        return tuple(side[0] if len(side) == 1 else side for side in sides)

    def start(self, function: Callable[..., Any]) -> Any:
        """Return p0; where none is given, the model's own guess if it has one for such data."""
        if self.p0 is None and hasattr(function, "guess") and len(self.x) == 1:
            return "auto"
        return self.p0

    def check(self) -> None:
        """Raise if options don't fit together, before anything is read."""
        if self.sigma is not None and self.weight is not None:
            raise ValueError("Give --sigma or --weight, not both: a weight is 1 / sigma**2.")
        if self.absolute_sigma and self.sigma is None:
            raise ValueError("--absolute-sigma needs --sigma COL.")
        if self.resume and self.checkpoint is None:
            raise ValueError("--resume needs --checkpoint DIR, where the fit was saved.")
        if self.output is not None and not Path(self.output).absolute().parent.is_dir():
            raise ValueError(f"There is no directory for the output file {self.output}.")


@click.command()
@click.argument("model")
@click.argument("file")
@_columns
@_problem
@_saving
@_output
@debug_option
def fit(model: str, file: str, **options: Any) -> None:
    """Fit MODEL to columns of FILE.

    MODEL is a ready model (see `nlsq-sklearn models`), or one of your own: file.py:function or
    module:function, written with jax.numpy as function(x, a, b, ...).

    FILE is .parquet (a file or a directory), .csv (also .csv.gz), .npy or .zarr. Columns are
    given by name; by number, from 0, where they have none. It is read chunk by chunk.

    With --checkpoint and --resume the same command may be run again and again: it starts, goes on
    where it was killed, or gives back the result that is there.

    The result goes to standard output, all else to standard error. Exit status: 0 where the fit
    converged, 1 where it did not, 2 for wrong input, 130 after Ctrl-C.
    """
    started_at = time.monotonic()
    request = Request(**options)
    with plainly(debug=request.debug, verbosity=request.verbose - request.quiet) as context:
        try:
            request.check()
            function = load_model(model)
            context.source, context.legend = source_of(function), _legend(request.columns)
            result = _fit(function, file, request, started_at)
        except KeyboardInterrupt:
            say(_interrupted(request))
            sys.exit(INTERRUPTED)
        _print(result, model, file, request)
    sys.exit(0 if result.success else 1)


def _fit(
    function: Callable[..., Any], file: str, request: Request, started_at: float
) -> CurveFitResult:
    """Return the result of the fit that is asked for."""
    optimizer = AdaptiveHybridStreamingOptimizer(
        function, checkpoint_dir=request.checkpoint, checkpoint_interval=request.interval
    )
    p0 = request.start(function)
    # Reading a file may take minutes: what can be told before is told before.
    names = names_of(function, p0)
    traced(function, names, len(request.x))
    as_start(p0, as_bounds(request.bounds, len(names), function), names)
    is_resumed = _look_for_saved(request)
    return optimizer._fit_stream(
        open_file(file, request.columns, request.chunk_size),
        p0,
        started_at,
        bounds=request.bounds,
        absolute_sigma=request.absolute_sigma,
        loss=request.loss,
        f_scale=request.f_scale,
        n_starts=request.n_starts,
        tolerances=as_tolerances(1e-8, 1e-8, 1e-8, request.max_iter),
        resume=is_resumed,
        show_progress=not request.quiet,
    )


def _look_for_saved(request: Request) -> bool:
    """Return whether to go on from a checkpoint, and tell what is done about it."""
    directory = request.checkpoint
    if directory is None:
        return False
    if as_url(directory) is None and Path(absolute(directory)).is_file():
        raise ValueError(f"The checkpoint directory {directory} is a file. Give another name.")
    saved = SavedFit(directory)
    if not saved.sizes:
        if request.resume:
            _logger.info("no checkpoint in %s yet: the fit starts", directory)
        return False
    newest, _ = saved.newest()
    how_far = "" if newest is None else f" ({progress(state_of(newest.record or {}))})"
    if request.resume:
        _logger.info("going on from the checkpoint in %s%s", directory, how_far)
        return True
    _logger.warning(
        "%s holds checkpoints of an earlier fit%s, which this one replaces: it starts afresh. "
        "--resume would go on from them.",
        directory,
        how_far,
    )
    return False


def _legend(columns: Columns) -> str:
    """Return what messages mean that speak of x, y, sigma and rows."""
    names = [f"x is the column {columns.x[0]}"]
    if len(columns.x) > 1:
        names = [f"x[{i}] is the column {name}" for i, name in enumerate(columns.x)]
    for what, name in (
        ("y", columns.y),
        ("sigma", columns.sigma),
        ("sample_weight", columns.weight),
    ):
        names += [] if name is None else [f"{what} is {name}"]
    return f"({', '.join(names)}; the first row is row 0.)"


def _interrupted(request: Request) -> str:
    """Return what to do after Ctrl-C."""
    if request.checkpoint is None:
        return "Interrupted. Nothing was saved: with --checkpoint DIR the fit can be gone on with."
    newest, _ = SavedFit(request.checkpoint).newest()
    if newest is None:
        return "Interrupted before anything was saved."
    return (
        f"Interrupted at {progress(state_of(newest.record or {}))}, and saved in "
        f"{request.checkpoint}. To go on, run the same command again"
        f"{'' if request.resume else ' with --resume'}."
    )


def _print(result: CurveFitResult, model: str, file: str, request: Request) -> None:
    """Print the result, and write it to the file that is asked for."""
    answer = _as_json(result, model, file, request.columns)
    if request.as_json:
        print_json(answer)
    else:
        click.echo(str(result))
    if request.output is not None:
        path = Path(request.output)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(to_json(answer) + "\n")
        temporary.replace(path)


def _as_json(result: CurveFitResult, model: str, file: str, columns: Columns) -> dict[str, Any]:
    """Return the result for programs; an infinite standard error is null."""
    parameters = zip(result.param_names, result.popt.tolist(), result.perr.tolist(), strict=True)
    return {
        "model": model,
        "file": os.path.abspath(file),
        "columns": columns._asdict(),
        "success": bool(result.success),
        "status": result.status,
        "message": result.message,
        "parameters": {
            name: {"value": value, "standard_error": error} for name, value, error in parameters
        },
        "covariance": result.pcov.tolist(),
        "cost": result.cost,
        "rows": result.n_rows,
        "steps": result.n_iter,
        "passes": result.n_passes,
        "elapsed_seconds": result.elapsed,
    }
