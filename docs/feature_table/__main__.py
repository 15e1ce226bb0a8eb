"""Check what libraries do, and write the table: ``python docs/feature_table [LIBRARY ...]``.

Each cell is decided by code that is run against the installed library. A library whose package is
not installed keeps the column of the last check, so that libraries that can't be installed side by
side are checked one after the other:

    python docs/feature_table nlsq_sklearn scipy lmfit
    python docs/feature_table nlsq      # in an environment with nlsq
    python docs/feature_table dask_ml   # with dask-ml, and SciPy below 1.18, which dask-glm needs
    python docs/feature_table skorch    # with skorch, torch, fire and distributed
"""

import argparse
import json
import os
import platform
import sys
import time
from importlib import import_module
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))

from features import FEATURES, KEYS

LIBRARIES = ("nlsq_sklearn", "scipy", "lmfit", "nlsq", "dask_ml", "skorch")
RESULTS = FOLDER / "results.json"
TABLE = FOLDER / "table.md"
MARKS = {"yes": "✓", "own": "own code", "partly": "partly", "no": "\N{EN DASH}"}


def check(library):
    """Run all checks of a library; return its column."""
    probe = import_module(f"probe_{library}")
    cells = {}
    for key in KEYS:
        cell = getattr(probe, key)()
        print(f"{library:>12} {key:<16} {cell.answer:<6} {cell.note}", flush=True)
        cells[key] = [cell.answer, cell.note]
    return {
        "name": probe.NAME,
        "versions": {**probe.VERSIONS, "Python": platform.python_version()},
        "date": time.strftime("%Y-%m-%d"),
        "cells": cells,
    }


def table(results):
    """Return the table as Markdown, with its notes below it."""
    columns = [results[library] for library in LIBRARIES if library in results]
    notes = []

    def cell(column, key):
        answer, note = column["cells"][key]
        if not note:
            return MARKS[answer]
        if note not in notes:
            notes.append(note)
        return f"{MARKS[answer]}<sup>{notes.index(note) + 1}</sup>"

    lines = ["| | " + " | ".join(column["name"] for column in columns) + " |"]
    lines.append("|---|" + ":-:|" * len(columns))
    for group, rows in FEATURES.items():
        lines.append(f"| **{group}** |" + " |" * len(columns))
        for key, question in rows.items():
            cells = " | ".join(cell(column, key) for column in columns)
            lines.append(f"| {question} | {cells} |")
    legend = "{yes} yes, {no} no; *own code* and *partly* as the notes say:"
    lines += ["", legend.format(**MARKS), ""]
    lines += [f"{number}. {note}" for number, note in enumerate(notes, 1)]
    lines += ["", "Checked:", ""]
    for column in columns:
        versions = ", ".join(f"{name} {version}" for name, version in column["versions"].items())
        lines.append(f"- {column['name']}: {versions}, on {column['date']}")
    return "\n".join(lines) + "\n"


def main():
    """Check the libraries of the command line, and write the results and the table."""
    os.environ.setdefault("MPLBACKEND", "agg")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("libraries", nargs="*", metavar="LIBRARY", help=", ".join(LIBRARIES))
    libraries = parser.parse_args().libraries
    # Not by choices, which refuse an empty list before Python 3.12.
    if unknown := set(libraries) - set(LIBRARIES):
        parser.error(f"{', '.join(sorted(unknown))}: the libraries are {', '.join(LIBRARIES)}")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for library in libraries:
        results[library] = check(library)
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    TABLE.write_text(table(results))


if __name__ == "__main__":
    main()
