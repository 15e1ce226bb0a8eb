"""The word MODEL of the command line -> a function."""

import difflib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from .. import models


def load_model(text: str) -> Callable[..., Any]:
    """Return the model that a word names.

    Parameters
    ----------
    text : str
        A name from `nlsq_sklearn.models`, or ``path/to/file.py:function``, or
        ``module:function``. Files and modules are run, as ``python`` would run them.

    Raises
    ------
    ValueError
        If there is none; with what there is.
    """
    place, _, name = text.rpartition(":")
    if not place:
        return _ready_model(text)
    module = _run_file(Path(place)) if place.endswith(".py") else _import_module(place)
    model = getattr(module, name, None)
    if not callable(model):
        names = _functions_of(module)
        raise ValueError(
            f"{place} has no function {name!r}.{_nearest(name, names)} "
            f"It has: {', '.join(names) or 'none'}."
        )
    return model  # type: ignore[no-any-return]


def _ready_model(name: str) -> Callable[..., Any]:
    names = ready_names()
    if name in names:
        return getattr(models, name)  # type: ignore[no-any-return]
    if name.endswith(".py"):
        path = Path(name)
        functions = _functions_of(_run_file(path))
        raise ValueError(
            f"Which function of {name} is the model? Write one of "
            f"{', '.join(f'{name}:{function}' for function in functions) or 'them behind a colon'}."
        )
    raise ValueError(
        f"There is no model {name!r}.{_nearest(name, names)} There are: {', '.join(names)}. One "
        "of your own is given as path/to/file.py:function."
    )


def ready_names() -> list[str]:
    """Return the names of the ready models."""
    return sorted(name for name in models.__all__ if hasattr(getattr(models, name), "formula"))


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, 1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _run_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"There is no file {path} with a model.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, os.path.abspath(path.parent))  # it may import its neighbours
    sys.modules[path.stem] = module  # dataclasses and pickle look there
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        raise ImportError(f"{path} could not be run: {error}.") from error
    return module


def _import_module(name: str) -> ModuleType:
    sys.path.insert(0, os.path.abspath(os.curdir))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise  # it is there, and something that it imports is not
        raise ValueError(
            f"There is no module {name!r} here or among what is installed. A file is given as "
            "path/to/file.py:function."
        ) from None


def _functions_of(module: ModuleType) -> list[str]:
    """Return the names of the functions that a module defines itself."""
    return [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
    ]


def source_of(model: Callable[..., Any]) -> str | None:
    """Return the file that a model is written in, None if it does not say."""
    code = getattr(inspect.unwrap(model), "__code__", None)
    return getattr(code, "co_filename", None)
