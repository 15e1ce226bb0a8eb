"""The reference holds every public name, and each has an example that is run."""

import importlib
import re

import pytest

import nlsq_sklearn
from nlsq_sklearn import models

from .doc_pages import ROOT

MODULES = {"nlsq_sklearn": nlsq_sklearn, "nlsq_sklearn.models": models}
PUBLIC = sorted(
    (place, name)
    for place, module in MODULES.items()
    for name in module.__all__
    if not (hasattr(getattr(module, name), "__path__") or isinstance(getattr(module, name), float))
)


def names_of_the_reference():
    """Return the names below each module that the page of the reference lists."""
    text, module, found = (ROOT / "docs" / "api" / "index.rst").read_text(), None, []
    for line in text.splitlines():
        if match := re.fullmatch(r"\.\. (?:current)?module:: (\S+)", line):
            module = match[1]
        elif match := re.fullmatch(r"   (\w+)", line):
            found.append((module, match[1]))
    return sorted(found)


def test_the_reference_lists_every_public_name():
    assert names_of_the_reference() == PUBLIC


@pytest.mark.parametrize(("place", "name"), PUBLIC)
def test_each_public_name_has_an_example(place, name):
    # The examples are run by --doctest-modules.
    assert ">>> " in getattr(importlib.import_module(place), name).__doc__
