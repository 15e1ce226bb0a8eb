"""The figures as Markdown: what was asked and measured, then every section's tables."""

from collections.abc import Iterator
from typing import Any

from .section import Section, table


def markdown(results: dict[str, Any], sections: list[Section], plot: str) -> str:
    """Return the page of a run.

    Parameters
    ----------
    sections : list of Section
        All there are; those that were not measured are left out.
    plot : str
        File name of the picture beside the page.
    """
    measured = [section for section in sections if section.name in results["sections"]]
    return "\n\n".join(_page(results, measured, plot)) + "\n"


def _page(results: dict[str, Any], measured: list[Section], plot: str) -> Iterator[str]:
    machine, versions = results["machine"], results["versions"]
    yield f"# Benchmarks, JAX {versions['jax']} on Python {versions['python']}"
    yield (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, "
        f"{machine['system']}. "
        + ", ".join(f"{name} {version}" for name, version in versions.items() if name != "python")
        + ". How to read and repeat this: [benchmarks.md](../benchmarks.md)."
    )
    if results["is_quick"]:
        yield "A quick run, which shows that everything runs: its figures mean nothing."
    else:
        yield "## Asked and measured"
        yield _targets(results, measured)
    if any(section.name.startswith("peers-") for section in measured):
        yield f"![Time of a fit against the number of rows, all solvers]({plot})"
    for section in measured:
        record = results["sections"][section.name]
        yield f"## {section.title}"
        yield section.report(record["figures"])
        yield f"*Measured on {record['date']} in {record['took_s']:.0f} s.*"


def _targets(results: dict[str, Any], measured: list[Section]) -> str:
    """Return the table of all targets, met or not."""
    rows = [
        [target.what, target.asked, target.measured, "yes" if target.is_met else "**no**"]
        for section in measured
        for target in section.targets(results["sections"][section.name]["figures"])
    ]
    return table(["", "asked", "measured", "met"], rows)
