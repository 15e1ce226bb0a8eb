"""The command line ``nlsq-sklearn``. click lives here."""

import click

from .checkpoints import checkpoints
from .fit import fit
from .models import list_models


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="nlsq_sklearn", prog_name="nlsq-sklearn")
def main() -> None:
    """Fit a curve to more data than memory holds, and look at fits that run."""


main.add_command(fit)
main.add_command(list_models)
main.add_command(checkpoints)
