"""Formulas as MathML, which browsers draw themselves: no script, no font, nothing to download."""

from docutils.nodes import SkipNode
from docutils.utils.math import MathError, latex2mathml
from sphinx.errors import ExtensionError


def render(latex, location, *, is_block):
    """Return the MathML of a formula; a build with one that can't be read fails."""
    try:
        return latex2mathml.tex2mathml(latex, as_block=is_block)
    except MathError as error:
        raise ExtensionError(f"{location}: the formula {latex!r} can't be read: {error}") from error


def visit_math(translator, node):
    """Write a formula within a line."""
    translator.body.append(render(node.astext(), node.source, is_block=False))
    raise SkipNode


def visit_displaymath(translator, node):
    """Write a formula on a line of its own."""
    math = render(node.astext(), node.source, is_block=True)
    translator.body.append(f'<div class="math-block">{math}</div>\n')
    raise SkipNode


def setup(app):
    """Register with Sphinx."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_displaymath, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
