"""The pages of the documentation: their code runs as it stands, and prints what they show."""

import logging
import re

import jax
import pytest

from .doc_pages import PAGES, ROOT, blocks_of, lines_agree, outputs_agree, run_page


@pytest.fixture
def in_empty_directory(tmp_path, monkeypatch):
    """Run in an empty directory, and leave the loggers and JAX's precision as they were found."""
    monkeypatch.chdir(tmp_path)
    is_x64 = jax.config.jax_enable_x64  # which NLSQ changes when it is imported
    logger = logging.getLogger("nlsq_sklearn")
    level, handlers = logger.level, list(logger.handlers)
    yield tmp_path
    logger.setLevel(level)
    logger.handlers[:] = handlers
    jax.config.update("jax_enable_x64", is_x64)


# Dask calls pandas so.
@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame.set_index")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_blocks_of_a_page_run_and_print_what_it_shows(page, in_empty_directory):
    for run in run_page(page):
        where = f"{page.name}:{run.block.line}"
        shown = "" if run.shown is None else run.shown.text
        assert outputs_agree(run.printed, shown), f"{where} printed\n{run.printed}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_each_output_that_a_page_shows_is_that_of_a_block_above_it(page):
    languages = [block.language for block in blocks_of(page)]
    for above, language in zip(["", *languages], languages, strict=False):
        assert language != "text" or above in ("python", "sh")
        assert language not in ("pycon", "bash", "console", "py"), "write python, sh and text"


def test_the_readme_shows_what_matters():
    languages = [block.language for block in blocks_of(ROOT / "README.md")]
    assert languages.count("python") >= 4
    assert "text" in languages


@pytest.mark.parametrize(
    ("printed", "shown", "is_same"),
    [
        ("rate  1.300028373  7.82e-05", "rate 1.300028371 7.82e-05", True),
        ("rate  1.300028373  7.82e-05", "rate 1.311 7.82e-05", False),
        ("2 passes, 1.70 s", "2 passes, 0.31 s", True),
        ("2 passes, 1.70 s", "3 passes, 1.70 s", False),
        ("10,000 rows", "100,000 rows", False),
        ("saved: /tmp/a/b.json", "saved: ...json", True),
        ("rate 1.3", "slope 1.3", False),
        ("-1.0", "1.0", False),
    ],
)
def test_an_output_is_compared_by_its_words_and_numbers(printed, shown, is_same):
    assert lines_agree(printed, shown) is is_same


def test_lines_that_are_left_out_are_marked():
    assert outputs_agree("a\nb\nc", "a\n...\nc")
    assert not outputs_agree("a\nb\nc", "a\nc")
    assert not outputs_agree("a\nb", "a\n...\nc")


def test_the_commands_to_install_name_extras_that_there_are():
    project = (ROOT / "pyproject.toml").read_text()
    for page in PAGES:
        for extras in re.findall(
            r'install[^\n]*(?:\.|nlsq_sklearn)\[([\w,]+)\]"', page.read_text()
        ):
            for extra in extras.split(","):
                assert f"\n{extra} = [" in project, f"{page.name} names the extra {extra}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_tests_that_a_page_names_exist(page):
    named = re.findall(r"`(tests/[^`]*)`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []
