"""``python -m benchmarks.child MODULE:FUNCTION ARGUMENTS``: call a function, print what it returns.

The arguments, by name, and the result are JSON.
"""

import importlib
import json
import os
import sys


def main(function: str, arguments: str) -> None:
    """Call the function; its own output goes to standard error, its result to standard output."""
    results = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    module, name = function.split(":")
    result = getattr(importlib.import_module(module), name)(**json.loads(arguments))
    with os.fdopen(results, "w") as stream:
        json.dump(result, stream)


if __name__ == "__main__":
    main(*sys.argv[1:])
