"""The blocks of a Markdown page, run from top to bottom in one namespace.

``python -m tests.doc_pages PAGE`` runs a page in an empty directory and writes what its blocks
print into the ``text`` blocks below them.
"""

import argparse
import contextlib
import importlib.util
import io
import os
import re
import shlex
import subprocess
import tempfile
import textwrap
from pathlib import Path
from typing import NamedTuple

from click.testing import CliRunner

from nlsq_sklearn._cli import main

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted(
        path
        for path in (*(ROOT / "docs").rglob("*.md"), ROOT / "docs/how_to/plots.rst")
        if "_build" not in path.parts and path.parent.name != "benchmarks"
    ),
]
PYTHON = ("python", "plot")
NUMBER = re.compile(r"[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?(?![\d.])")
SECONDS = re.compile(r"^ ?(?:s|ms|rows/s|M rows/s)\b")


class Block(NamedTuple):
    """A fenced block: its language, its text and the number of its first line.

    ``requires`` is a package without which it is not run; it stands behind the language.
    """

    language: str
    text: str
    line: int
    requires: str | None


class Run(NamedTuple):
    """A block that was run, what it printed, and the ``text`` block below it, if there is one."""

    block: Block
    printed: str
    shown: Block | None


def blocks_of(page):
    """Return the fenced blocks of a page in order."""
    pattern = r"^( *)(`{3,})(\{?[\w-]+\}?)([^\n`]*)\n(.*?)^\1\2$"
    if page.suffix == ".rst":
        pattern = r"^( *)(\.\. )(plot)::([^\n]*)\n((?:   [^\n]*\n|\n)+)"
    text = page.read_text()
    found = []
    for match in re.finditer(pattern, text, re.DOTALL | re.MULTILINE):
        line = text.count("\n", 0, match.start(5)) + 1
        requires = re.search(r"requires=(\w+)", match[4])
        block = Block(match[3], textwrap.dedent(match[5]), line, requires and requires[1])
        found.append(block)
    return found


def run_page(page, names=None):
    """Run a page in the current directory; yield each block that was run."""
    names = {"__name__": "__main__"} if names is None else names
    blocks = blocks_of(page)
    for block, below in zip(blocks, [*blocks[1:], None], strict=False):
        if block.requires is not None and importlib.util.find_spec(block.requires) is None:
            continue
        shown = below if below is not None and below.language == "text" else None
        if block.language in PYTHON:
            yield Run(block, _run_python(block, page, names), shown)
        elif block.language == "sh":
            yield Run(block, _run_shell(block), shown)


def _run_python(block, page, names):
    # Options of a directive are no Python; comments in their place keep the numbers of the lines.
    source = re.sub(r"^:", "#:", block.text, flags=re.MULTILINE)
    code = compile("\n" * (block.line - 1) + source, str(page), "exec")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, names)
    return printed.getvalue()


def _run_shell(block):
    """Check the syntax of a shell block, and run its lines of our own command."""
    subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
    printed = ""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["nlsq-sklearn"]:
            result = CliRunner().invoke(main, words[1:])
            assert result.exit_code == 0, result.output
            printed += result.stdout
    return printed


def numbers_agree(printed, shown):
    """Return whether a number is the one shown: equal, or within a unit of the last digit.

    That, or a thousandth of it: the last of many digits depends on the machine.
    """
    if not re.search(r"[.e]", shown):
        return printed == shown
    digits = re.sub(r"e.*", "", shown.replace(",", ""))
    exponent = float("1" + shown[len(re.sub(r"e.*", "", shown)) :]) if "e" in shown else 1.0
    unit = exponent * 10.0 ** -len(digits.partition(".")[2])
    value, expected = (float(number.replace(",", "")) for number in (printed, shown))
    return abs(value - expected) <= max(1.01 * unit, 1e-3 * abs(expected))


def lines_agree(printed, shown):
    """Return whether a line is the one shown.

    Spaces don't count, nor do seconds; ``...`` stands for anything.
    """
    shown = shown.strip()
    pattern, numbers, end = "", [], 0
    for match in NUMBER.finditer(shown):
        pattern += _as_pattern(shown[end : match.start()])
        end = match.end()
        if SECONDS.match(shown[end:]):
            pattern += NUMBER.pattern
        else:
            pattern += f"({NUMBER.pattern})"
            numbers.append(match[0])
    found = re.fullmatch(rf"\s*{pattern}{_as_pattern(shown[end:])}\s*", printed.strip())
    return found is not None and all(map(numbers_agree, found.groups(), numbers))


def _as_pattern(text):
    """Return the pattern of words between numbers."""
    words = [re.escape(word).replace(r"\.\.\.", ".*") for word in re.split(r"\s+", text)]
    return r"\s+".join(words)


def outputs_agree(printed, shown):
    """Return whether an output is the one shown; a line ``...`` stands for any number of lines."""
    printed, shown = printed.rstrip().splitlines(), shown.rstrip().splitlines()
    while shown:
        if shown[0].strip() == "...":
            rest = "\n".join(shown[1:])
            return not rest or any(
                outputs_agree("\n".join(printed[start:]), rest) for start in range(len(printed))
            )
        if not printed or not lines_agree(printed[0], shown[0]):
            return False
        printed, shown = printed[1:], shown[1:]
    return not printed


def _write_outputs(page):
    """Write what the blocks of a page print into the blocks below them."""
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
        runs = list(run_page(page))
    lines = page.read_text().splitlines(keepends=True)
    for run in reversed(runs):
        if run.shown is not None and not outputs_agree(run.printed, run.shown.text):
            first = run.shown.line - 1
            lines[first : first + run.shown.text.count("\n")] = [run.printed.rstrip() + "\n"]
        elif run.shown is None and run.printed:
            print(f"{page}:{run.block.line}: printed, and not shown:\n{run.printed}")
    page.write_text("".join(lines))


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "agg")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", type=Path, nargs="+")
    for path in parser.parse_args().pages:
        _write_outputs(path.resolve())
