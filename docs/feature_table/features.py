"""The rows of the table: what is asked, and what is run to decide it."""

FEATURES = {
    "The fit": {
        "curve": "Least squares for a curve of your own: the answer to a hundredth of its error",
        "errors": "Standard errors of the parameters, right to a percent",
        "derivatives": "Derivatives by automatic differentiation",
        "sigma": "A standard deviation or weight for each row",
        "bounds": "Bounds: an active one is met",
        "robust": "A robust loss keeps 3 % of outliers from pulling",
        "starts": "Several starts, or a global search: a peak is found from a bad start",
        "ready": "Ready curves with a first guess from the data",
        "expressions": "Parameters tied by an expression (`b = a / 2`), without a new model",
        "row_covariance": "A full covariance matrix of the rows",
        "profile": "Confidence intervals by profiling the cost",
        "band": "Standard error of the curve at new places",
    },
    "Large data": {
        "memory_map": "A memory map of 480 MB, in less than half of its size",
        "dask": "A Dask array that is never in memory whole",
        "cluster": "A Dask array on a cluster of processes",
        "batches": "Batches that are seen once: within a standard error of the fit to all rows",
    },
    "scikit-learn": {
        "grid_search": "The curve as an estimator in `GridSearchCV`, cloned and scored",
        "check_estimator": "`check_estimator` passes for it",
    },
    "Interruptions": {
        "resume": "A fit that was interrupted goes on, and ends in the same bits",
        "resume_search": "A grid search that was run before does no fit again, in a new process",
    },
    "Honesty": {
        "not_converged": "A fit that reached its limit of steps says so",
        "undetermined": "A parameter that the data do not determine is told",
        "nan": "A value that is not finite is refused",
    },
    "Around it": {
        "callback": "A callback can stop the fit",
        "report": "The answer as a readable table",
        "plot": "A plot of curve and data",
        "command": "A command line",
    },
}
KEYS = [key for rows in FEATURES.values() for key in rows]
