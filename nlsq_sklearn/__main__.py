"""``python -m nlsq_sklearn``: the command line, where its script is not on the path."""

from ._cli import main

if __name__ == "__main__":
    main(prog_name="python -m nlsq_sklearn")
