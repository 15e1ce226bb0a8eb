"""``python -m benchmarks``: measure everything side by side, and write tables and a picture."""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from . import results
from .measure import ROOT
from .plot import draw
from .report import markdown
from .section import FULL, QUICK, Section
from .sections import (
    checkpoints,
    cluster,
    dask_threads,
    imports,
    memory_map,
    passes,
    peers,
    search,
    small,
)

SECTIONS: list[Section] = [
    *peers.SECTIONS,
    passes.SECTION,
    small.SECTION,
    memory_map.SECTION,
    dask_threads.SECTION,
    cluster.SECTION,
    checkpoints.SECTION,
    imports.SECTION,
    search.SECTION,
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sections that are asked for; each is written when it is done."""
    names = [section.name for section in SECTIONS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rows: seconds, and no judgement")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", choices=names, default=names, help=", ".join(names)
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="nlsq_sklearn-benchmarks-") as directory:
        for section in SECTIONS:
            if section.name in options.only:
                _run(section, Path(directory), options.out, is_quick=options.quick)
    return 0


def _run(section: Section, directory: Path, out: Path, *, is_quick: bool) -> None:
    """Measure a section, and write the files of the run with it."""
    stem = results.stem(is_quick=is_quick)
    page, figures, picture = (out / f"{stem}.{kind}" for kind in ("md", "json", "png"))
    print(f"{section.name} ...", flush=True)
    started_at = time.monotonic()
    measured = section.measure(QUICK if is_quick else FULL, directory)
    seconds = time.monotonic() - started_at
    known = results.add(results.load(figures), section.name, measured, seconds, is_quick=is_quick)
    results.save(known, figures)
    draw(known, SECTIONS, picture)
    page.write_text(markdown(known, SECTIONS, picture.name))
    for target in [] if is_quick else section.targets(measured):
        verdict = "met" if target.is_met else "NOT MET"
        print(f"  {target.what}: {target.measured}, asked {target.asked}: {verdict}")
    print(f"  {seconds:.0f} s, written to {page}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
