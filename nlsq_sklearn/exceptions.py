"""Errors and warnings. Each error also derives from the builtin that callers already catch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sklearn.exceptions import ConvergenceWarning as ConvergenceWarning

__all__ = [
    "CheckpointDirectoryError",
    "CheckpointError",
    "CheckpointNotFoundError",
    "CheckpointWarning",
    "ChunkError",
    "CorruptCheckpointError",
    "IncompatibleCheckpointError",
    "InvalidRowError",
    "SchedulerLostError",
]


class CheckpointError(Exception):
    """Base class of the errors about checkpoints.

    Examples
    --------
    >>> import tempfile
    >>> from nlsq_sklearn import CheckpointError, JSONCheckpoint
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     try:
    ...         record = JSONCheckpoint(directory).load()
    ...     except CheckpointError as error:
    ...         print(type(error).__name__)
    CheckpointNotFoundError
    """


class CheckpointDirectoryError(CheckpointError, OSError):
    """The checkpoint directory can't be written to, or not be read.

    Examples
    --------
    A file is in the way of the directory:

    >>> import tempfile
    >>> import numpy as np
    >>> from nlsq_sklearn import CheckpointDirectoryError, StreamingCurveFitRegressor
    >>> X = np.arange(10.0).reshape(-1, 1)
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     regressor = StreamingCurveFitRegressor(checkpoint=file.name)
    ...     try:
    ...         regressor.fit(X, X[:, 0])
    ...     except CheckpointDirectoryError:
    ...         print("no checkpoint can be written there")
    no checkpoint can be written there
    """


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """There is no checkpoint to resume from.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from nlsq_sklearn import AdaptiveHybridStreamingOptimizer, CheckpointNotFoundError
    >>> x = np.arange(10.0)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     optimizer = AdaptiveHybridStreamingOptimizer(
    ...         lambda x, slope: slope * x, checkpoint_dir=directory
    ...     )
    ...     try:
    ...         result = optimizer.fit(x, 2 * x, resume=True)
    ...     except CheckpointNotFoundError:
    ...         result = optimizer.fit(x, 2 * x)
    >>> print(result.popt.round(6))
    [2.]
    """


class IncompatibleCheckpointError(CheckpointError, ValueError):
    """The checkpoint belongs to another model, other data or other settings.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from nlsq_sklearn import AdaptiveHybridStreamingOptimizer, IncompatibleCheckpointError
    >>> x = np.arange(10.0)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     optimizer = AdaptiveHybridStreamingOptimizer(
    ...         lambda x, slope: slope * x, checkpoint_dir=directory
    ...     )
    ...     result = optimizer.fit(x, 2 * x)
    ...     try:
    ...         optimizer.fit(x, 3 * x, resume=True)
    ...     except IncompatibleCheckpointError as error:
    ...         print("the data changed" if "data" in str(error) else error)
    the data changed
    """


class CorruptCheckpointError(CheckpointError, ValueError):
    """No file of the directory holds a checkpoint that can be trusted.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from nlsq_sklearn import CorruptCheckpointError, JSONCheckpoint
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = pathlib.Path(directory, "checkpoint_latest.json")
    ...     _ = path.write_text("half a fi")
    ...     try:
    ...         record = JSONCheckpoint(directory).load()
    ...     except CorruptCheckpointError:
    ...         print("start without resume")
    start without resume
    """


class ChunkError(RuntimeError):
    """A chunk of a Dask array could not be computed; the cause is the error of its task.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from nlsq_sklearn import ChunkError, StreamingCurveFitRegressor
    >>> def read(block):
    ...     raise OSError("the disk is gone")
    >>> x = da.arange(1000, chunks=500, dtype=float)
    >>> y = x.map_blocks(read, dtype=float, meta=np.empty(0))
    >>> try:
    ...     _ = StreamingCurveFitRegressor().fit(x[:, None], y)
    ... except ChunkError as error:
    ...     print(repr(error.__cause__))
    OSError('the disk is gone')
    """


class InvalidRowError(ValueError):
    """A value in the data is not finite, a sigma not positive, or a weight negative.

    Examples
    --------
    >>> import numpy as np
    >>> from nlsq_sklearn import InvalidRowError, StreamingCurveFitRegressor
    >>> X = np.arange(10.0).reshape(-1, 1)
    >>> y = X[:, 0].copy()
    >>> y[3] = np.nan
    >>> try:
    ...     _ = StreamingCurveFitRegressor().fit(X, y)
    ... except InvalidRowError as error:
    ...     print("row 3" in str(error))
    True
    """


class SchedulerLostError(ConnectionError):
    """The scheduler of a Dask cluster went away in the middle of a fit.

    What was summed is in the checkpoint, if the fit has one: connect to a cluster again and
    resume.

    Examples
    --------
    Callers that catch Python's own error catch this one too:

    >>> from nlsq_sklearn import SchedulerLostError
    >>> issubclass(SchedulerLostError, ConnectionError)
    True
    """


class CheckpointWarning(UserWarning):
    """A checkpoint could not be written or read; the fit goes on without it.

    Examples
    --------
    To stop instead of going on without checkpoints:

    >>> import warnings
    >>> from nlsq_sklearn import CheckpointWarning
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", CheckpointWarning)  # the fit goes here
    """


def __getattr__(name: str) -> Any:
    """Return scikit-learn's `ConvergenceWarning`, imported when it is asked for.

    scikit-learn takes 95 MB, which a script that uses the optimizer alone need not pay.
    """
    if name == "ConvergenceWarning":
        from sklearn.exceptions import ConvergenceWarning

        return ConvergenceWarning
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
