"""``python -m tests.chaos --rounds 500``: kill fits, and print a table of what came of it."""

import argparse
import sys
import time

from tests.chaos.fits import KINDS
from tests.chaos.rounds import CASES, run_rounds, table


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=len(CASES), help="rounds in all")
    parser.add_argument("--first", type=int, default=0, help="number of the first round")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="kinds of fit")
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start none later")
    arguments = parser.parse_args()
    started_at = time.monotonic()
    numbers = range(arguments.first, arguments.first + arguments.rounds)
    counts, faults = run_rounds(
        numbers,
        arguments.seed,
        arguments.kinds,
        seconds=arguments.seconds,
        jobs=min(arguments.jobs, len(arguments.kinds)),
    )
    print(table(counts))
    print(f"seed {arguments.seed}, {time.monotonic() - started_at:.0f} s")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
