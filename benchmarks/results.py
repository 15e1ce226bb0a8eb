"""The figures of a run, kept as JSON: a section that is run again takes the place of its last."""

import datetime
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

import jax

_LIBRARIES = ("jax", "numpy", "scipy", "lmfit", "nlsq", "optimistix", "dask", "scikit-learn")


def stem(*, is_quick: bool) -> str:
    """Return the name of the files of a run, one for each minor version of JAX."""
    version = ".".join(jax.__version__.split(".")[:2])
    return f"{'quick' if is_quick else 'results'}-jax-{version}"


def load(path: Path) -> dict[str, Any]:
    """Return the figures of earlier runs, empty where there are none."""
    return json.loads(path.read_text()) if path.exists() else {"sections": {}}


def add(
    results: dict[str, Any], section: str, figures: Any, seconds: float, *, is_quick: bool
) -> dict[str, Any]:
    """Return the results with a section's figures in place of its earlier ones."""
    record = {
        "figures": figures,
        "took_s": round(seconds, 1),
        "date": datetime.date.today().isoformat(),
    }
    sections = results["sections"] | {section: record}
    return {
        "machine": _machine(),
        "versions": _versions(),
        "is_quick": is_quick,
        "sections": sections,
    }


def save(results: dict[str, Any], path: Path) -> None:
    """Write the figures."""
    path.write_text(json.dumps(results, indent=1) + "\n")


def _machine() -> dict[str, Any]:
    """Return what the machine is, without its name."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    """Return the processor and the widest vectors it has, as Linux tells."""
    handle = Path("/proc/cpuinfo")
    if not handle.exists():
        return platform.processor()
    fields = dict(
        (part.strip() for part in line.split(":", 1))
        for line in handle.read_text().splitlines()
        if ":" in line
    )
    flags = fields.get("flags", "").split()
    vectors = next((name for name in ("avx512f", "avx2") if name in flags), "")
    return " ".join([fields.get("model name", platform.processor()), vectors]).strip()


def _versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that are installed."""
    versions = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
