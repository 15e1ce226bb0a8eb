"""The table of features is that of the last check, and true for what is installed here."""

import importlib
import importlib.metadata
import json
import sys
import warnings

import pytest

from .doc_pages import ROOT

FOLDER = ROOT / "docs" / "feature_table"
RESULTS = json.loads((FOLDER / "results.json").read_text())
# Minutes long, or with processes of their own; decided when the table is made.
SLOW = {"memory_map", "cluster", "check_estimator"}
INSTALLED = {"nlsq_sklearn": "nlsq_sklearn", "scipy": "SciPy", "lmfit": "lmfit"}


@pytest.fixture
def folder_of_the_checks(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    before = set(sys.modules)
    yield FOLDER
    for name in set(sys.modules) - before:
        if name.startswith("probe_") or name in ("problem", "features"):
            del sys.modules[name]


def test_every_library_has_an_answer_for_every_feature(folder_of_the_checks):
    keys = importlib.import_module("features").KEYS
    assert sorted(RESULTS) == ["dask_ml", "lmfit", "nlsq", "nlsq_sklearn", "scipy", "skorch"]
    for column in RESULTS.values():
        assert list(column["cells"]) == keys
        assert column["versions"]
        assert column["date"] > "2026"


def test_the_page_shows_the_results_of_the_last_check(folder_of_the_checks):
    spec = importlib.util.spec_from_file_location("table_of_features", FOLDER / "__main__.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    assert (FOLDER / "table.md").read_text() == program.table(RESULTS)


@pytest.mark.parametrize("library", INSTALLED)
def test_the_answers_are_those_of_the_library_that_is_installed(library, folder_of_the_checks):
    if library != "nlsq_sklearn":
        stated = RESULTS[library]["versions"][INSTALLED[library]]
        if importlib.metadata.version(library) != stated:
            pytest.skip(f"the table is for {library} {stated}")
    probe = importlib.import_module(f"probe_{library}")
    answers = {}
    for key in set(RESULTS[library]["cells"]) - SLOW:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answers[key] = getattr(probe, key)().answer
    expected = {key: RESULTS[library]["cells"][key][0] for key in answers}
    assert answers == expected
