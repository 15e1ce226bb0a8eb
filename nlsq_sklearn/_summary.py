"""The answer of a fit for readers: tables in text and HTML, and warnings in words."""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

_STRONG_CORRELATION = 0.99
# More parameters would make a matrix wider than a screen; then the strongest pairs are listed.
_MOST_IN_MATRIX = 8
_MOST_PAIRS = 10
_ON_BOUND = 1e-8
# Without a style sheet, as outside of a notebook, columns would touch and intervals be broken.
_CELL = "padding: 0.15em 0.4em; white-space: nowrap"


class Summary(str):
    """A text that prompts and notebooks show line by line, without a call of ``print``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def short_text(result: Any) -> str:
    """Return the parameters and how the fit ended."""
    header, *rows = _parameter_rows(result, None)
    return "\n".join([*_aligned([header, *rows]), "", *_ending(result)])


def text(result: Any, level: float) -> str:
    """Return all there is to say of a fit."""
    lines = [f"{result.model_name}: {result.formula}" if result.formula else result.model_name, ""]
    lines += [*_aligned(_parameter_rows(result, level)), ""]
    correlations = _correlation_rows(result)
    if correlations:
        lines += [*_aligned(correlations), ""]
    quality = _quality_rows(result)
    if quality:
        lines += [*_aligned(quality), ""]
    lines += _ending(result)
    words = warnings_in_words(result)
    if words:
        lines += ["", *(f"Warning: {warning}" for warning in words)]
    return "\n".join(lines)


def html(result: Any, level: float) -> str:
    """Return the same as HTML."""
    title = f"<b>{escape(result.model_name)}</b>"
    if result.formula:
        title += f": <code>{escape(result.formula)}</code>"
    tables = [_table(_parameter_rows(result, level)), _table(_correlation_rows(result))]
    tables.append(_table(_quality_rows(result), has_header=False))
    ending = "<br>".join(map(escape, _ending(result)))
    warnings = "".join(
        f"<li><b>Warning</b>: {escape(warning)}</li>" for warning in warnings_in_words(result)
    )
    return (
        f'<div class="nlsq-sklearn-summary"><p>{title}</p>{"".join(tables)}<p>{ending}</p>'
        + (f"<ul>{warnings}</ul>" if warnings else "")
        + "</div>"
    )


def warnings_in_words(result: Any) -> list[str]:
    """Return what a reader should know before the numbers are believed."""
    names, words = result.param_names, []
    if not result.success and result.status != _UNKNOWN_STATUS:
        words.append(f"the fit did not converge. {result.message}")
    for name, value, lower, upper in zip(names, result.popt, *result.bounds, strict=True):
        for bound in (lower, upper):
            if np.isfinite(bound) and abs(value - bound) <= _ON_BOUND * abs(bound):
                words.append(
                    f"{name} is on its bound {bound:g}: its standard error, and those of "
                    "parameters that depend on it, do not know of the bound."
                )
    undetermined = [
        name for name, error in zip(names, result.perr, strict=True) if not np.isfinite(error)
    ]
    if undetermined:
        words.append(
            f"the data do not determine {', '.join(undetermined)}. Fix one of them, or measure "
            "where they matter."
        )
    strong = [pair for pair in _pairs(result) if abs(pair[2]) > _STRONG_CORRELATION]
    if strong:
        listed = ", ".join(f"{a} and {b} ({value:+.6g})" for a, b, value in strong[:_MOST_PAIRS])
        words.append(
            f"strongly correlated: {listed}. Their values are much less certain than the curve."
        )
    return words


_UNKNOWN_STATUS = -10


def _parameter_rows(result: Any, level: float | None) -> list[list[str]]:
    """Return the table of parameters, with its header; with intervals if a level is given."""
    header = ["parameter", "value", "standard error", "relative error"]
    columns = [
        result.param_names,
        [f"{value:.10g}" for value in result.popt],
        [f"{error:.3g}" for error in result.perr],
        [
            f"{100 * abs(error / value):.2g} %" if value and np.isfinite(error) else "-"
            for value, error in zip(result.popt, result.perr, strict=True)
        ],
    ]
    if level is not None:
        header.append(f"{100 * level:g} % interval")
        columns.append([_interval(*ends) for ends in result.confidence_interval(level)])
    return [header, *map(list, zip(*columns, strict=True))]


def _interval(lower: float, upper: float) -> str:
    """Return an interval with as many digits as tell its ends apart, and two more."""
    if not np.isfinite(upper - lower):
        return "-"
    largest = max(abs(lower), abs(upper))
    digits = 3
    if largest > 0 and upper > lower:
        digits = int(np.clip(np.ceil(np.log10(largest / (upper - lower))) + 2, 3, 16))
    return f"{lower:.{digits}g} to {upper:.{digits}g}"


def _pairs(result: Any) -> list[tuple[str, str, float]]:
    """Return the pairs of parameters whose correlation is known, the strongest first."""
    names, matrix = result.param_names, result.correlation
    pairs = [
        (names[i], names[j], float(matrix[i, j]))
        for i in range(len(names))
        for j in range(i + 1, len(names))
        if np.isfinite(matrix[i, j])
    ]
    return sorted(pairs, key=lambda pair: -abs(pair[2]))


def _correlation_rows(result: Any) -> list[list[str]]:
    """Return the lower triangle of the correlation matrix, or its strongest pairs."""
    names = result.param_names
    if len(names) < 2:
        return []
    if len(names) > _MOST_IN_MATRIX:
        pairs = _pairs(result)[:_MOST_PAIRS]
        return [["strongest correlations", ""], *([f"{a}, {b}", f"{r:+.3f}"] for a, b, r in pairs)]
    rows = [["correlation", *names[:-1]]]
    for i, name in enumerate(names[1:], 1):
        values = [f"{value:+.3f}" if np.isfinite(value) else "-" for value in result.correlation[i]]
        rows.append([name, *values[:i], *([""] * (len(names) - 1 - i))])
    return rows


def _quality_rows(result: Any) -> list[list[str]]:
    """Return the measures of the fit that are known."""
    named = [
        ("R2", result.r2),
        ("chi-square", result.chi_square),
        ("reduced chi-square", result.reduced_chi_square),
        ("AIC", result.aic),
        ("BIC", result.bic),
        ("degrees of freedom", result.dof),
    ]
    return [[name, f"{value:.10g}"] for name, value in named if not np.isnan(value)]


def _ending(result: Any) -> list[str]:
    """Return how the fit ended, and what it took."""
    ending = f"{'success' if result.success else 'FAILED'}: {result.message}"
    if result.status == _UNKNOWN_STATUS:
        ending = result.message
    passes = "1 pass" if result.n_passes == 1 else f"{result.n_passes} passes"
    took = f"cost {result.cost:.10g}; {result.n_rows:,} rows, {passes}"
    if result.loss != "linear":
        took = f"{result.loss} loss, {took}"
    return [ending, took if np.isnan(result.elapsed) else f"{took}, {result.elapsed:.2f} s"]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines of text with columns below each other, the first to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]


def _table(rows: Sequence[Sequence[str]], *, has_header: bool = True) -> str:
    """Return rows as an HTML table."""
    if not rows:
        return ""
    lines = []
    for number, row in enumerate(rows):
        tag = "th" if has_header and number == 0 else "td"
        first, *others = (escape(cell) for cell in row)
        cells = f'<th style="text-align: left; {_CELL}">{first}</th>' + "".join(
            f'<{tag} style="text-align: right; {_CELL}">{cell}</{tag}>' for cell in others
        )
        lines.append(f"<tr>{cells}</tr>")
    table = f'<table style="border-collapse: collapse">{"".join(lines)}</table>'
    return f'<div style="margin: 0.7em 0; overflow-x: auto">{table}</div>'


class Summarised:
    """What an estimator shows of its fit; it has a result, by ``_latest_result()``."""

    def summary(self, level: float = 0.95) -> str:
        """Return the fit as a text of tables: errors, correlations, measures, warnings in words.

        After `partial_fit` it is of all batches so far, each at its own time.

        Parameters
        ----------
        level : float, default=0.95
            The probability that an interval covers the truth.

        Returns
        -------
        str

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If there is no fit yet.

        See Also
        --------
        nlsq_sklearn.CurveFitResult.summary : The meaning of the numbers.

        Examples
        --------
        >>> import numpy as np
        >>> from nlsq_sklearn import StreamingCurveFitRegressor
        >>> X = np.linspace(0, 1, 1000).reshape(-1, 1)
        >>> y = 2 * X[:, 0] + 1 + np.random.default_rng(0).normal(0, 0.1, len(X))
        >>> print(StreamingCurveFitRegressor().fit(X, y).summary().splitlines()[6])
        correlation  intercept
        """
        return Summary(text(self._latest_result(), level))

    def _html_repr(self) -> str:
        """Return scikit-learn's diagram, and below it the summary of the fit."""
        diagram = str(super()._html_repr())  # type: ignore[misc]
        return diagram + html(self._latest_result(), 0.95) if hasattr(self, "popt_") else diagram

    def _latest_result(self) -> Any:
        """Return the result of the last fit, or of the batches since."""
        raise NotImplementedError
