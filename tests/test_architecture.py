"""The rooms of the package and their arrows, read from the imports."""

import ast
from pathlib import Path

import pytest

import nlsq_sklearn

PACKAGE = Path(nlsq_sklearn.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# A room may import those that stand before it.
ORDER = [
    "exceptions",
    "_warnings",
    "_engine",
    "_signals",
    "_storage",
    "_format",
    "checkpoint",
    "_survey",
    "_saving",
    "_histogram",
    "_streams",
    "_fit",
    "_problem",
    "_statistics",
    "_summary",
    "_tables",
    "_result",
    "_progress",
    "_resume",
    "_batches",
    "_callbacks",
    "models",
    "_files",
    "optimizer",
    "regressor",
    "display",
    "__init__",
    "_cli",
    "__main__",
]
WITHIN = {
    "_engine": [
        "__init__",
        "spread",
        "equations",
        "loss",
        "advice",
        "one_function",
        "model",
        "remembered",
        "elementary",
        "curve",
        "operands",
        "device",
        "programs",
        "kernel",
        "prediction",
        "subproblem",
        "state",
        "record",
        "covariance",
        "trust_region",
        "compiled_steps",
        "few_rows",
        "recursive",
    ],
    "models": [
        "_attributes",
        "_search",
        "decays",
        "laws",
        "peaks",
        "saturations",
        "__init__",
    ],
    "_cli": ["output", "messages", "record", "checkpoints", "model", "models", "fit", "__init__"],
    "_files": ["columns", "npy", "text", "parquet", "zarr_arrays", "__init__"],
    "_storage": ["local", "remote", "__init__"],
    "_streams": [
        "rows",
        "memory_maps",
        "threads",
        "content",
        "arrays",
        "dask_tasks",
        "dask_graph",
        "dask_results",
        "dask_arrays",
        "scan",
        "profile",
        "picture",
        "__init__",
    ],
    "display": ["drawing", "statistics", "panels", "curve_fit", "convergence", "__init__"],
}
# Foreign libraries that live in few rooms.
HOMES = {
    "jax": {
        "_engine/advice",
        "_engine/compiled_steps",
        "_engine/curve",
        "_engine/device",
        "_engine/elementary",
        "_engine/kernel",
        "_engine/loss",
        "_engine/model",
        "_engine/one_function",
        "_engine/prediction",
        "_engine/programs",
        "models/decays",
        "models/laws",
        "models/peaks",
        "models/saturations",
    },
    "sklearn": {"exceptions", "regressor", "_callbacks"},
    "dask": {
        "_streams/dask_arrays",
        "_streams/dask_graph",
        "_streams/dask_results",
        "_streams/dask_tasks",
        "_files/parquet",
        "_files/text",
        "_files/zarr_arrays",
        "_streams/scan",
    },
    "fsspec": {"_storage/remote"},
    "json": {"_format", "_cli/output"},
    "click": {
        "_cli/__init__",
        "_cli/checkpoints",
        "_cli/fit",
        "_cli/messages",
        "_cli/models",
        "_cli/output",
        "_cli/record",
    },
    "pyarrow": {"_files/parquet", "_files/text"},
    "zarr": {"_files/zarr_arrays"},
    "signal": {"_signals"},
    "rich": {"_progress", "_cli/output"},
    "scipy": {
        "_engine/spread",
        "_engine/subproblem",
        "_problem",
        "_result",
        "_statistics",
        "display/panels",
        "display/statistics",
        "models/saturations",
    },
    "matplotlib": {"display/drawing", "display/panels", "display/convergence"},
}


def name_of(path):
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def imports(path):
    """Yield each imported module as (level, dotted name), lazy imports included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module:
                yield node.level, node.module
            else:
                yield from ((node.level, alias.name) for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_one_way(path):
    parts = name_of(path).split("/")
    for level, module in imports(path):
        if level == 0:
            assert not module.startswith("nlsq_sklearn"), "imports within the package are relative"
        elif level == len(parts):  # from the package itself
            target = module.split(".")[0]
            assert ORDER.index(target) < ORDER.index(parts[0])
        else:
            order = WITHIN[parts[0]]
            is_for_types = path.name == "rows.py" and module == "arrays"
            assert is_for_types or order.index(module) < order.index(parts[1])


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_each_foreign_library_has_one_home(path):
    for level, module in imports(path):
        library = module.split(".")[0]
        if level == 0 and library in HOMES:
            assert name_of(path) in HOMES[library]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_file_is_longer_than_600_lines(path):
    assert len(path.read_text().splitlines()) <= 600
