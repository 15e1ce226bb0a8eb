"""``nlsq-sklearn models``: the ready models and their parameters."""

import click

from .. import models
from .._engine.model import parameter_names
from .model import ready_names
from .output import json_option, print_json, print_table


@click.command("models")
@json_option
def list_models(*, as_json: bool) -> None:
    """List the ready models: their names, parameters and formulas."""
    functions = {name: getattr(models, name) for name in ready_names()}
    if as_json:
        print_json(
            {
                name: {"parameters": parameter_names(model, None), "formula": model.formula}
                for name, model in functions.items()
            }
        )
    else:
        rows = [[name, model.formula] for name, model in functions.items()]
        print_table(["model", "formula"], rows)
