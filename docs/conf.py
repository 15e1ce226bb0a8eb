"""How the pages are built: ``python -m sphinx -W --keep-going -n docs docs/_build/html``."""

import os
import sys
from pathlib import Path

# Set before JAX is imported, by the pictures: a build looks for no accelerator.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import nlsq_sklearn


def own_methods(owner):
    """Return the public methods of a class that are ours: others document theirs."""
    return [
        method
        for base in owner.__mro__
        if base.__module__.startswith("nlsq_sklearn")
        for method, value in vars(base).items()
        if not method.startswith("_")
        and getattr(getattr(value, "__func__", value), "__module__", "").startswith("nlsq_sklearn")
    ]


project = "nlsq_sklearn"
copyright = "the nlsq_sklearn developers"
version = release = nlsq_sklearn.__version__

extensions = [
    "mathml",
    "matplotlib.sphinxext.plot_directive",
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "feature_table"]  # of which a page includes the table
suppress_warnings = ["toc.empty_glob"]  # benchmarks may not have been run
templates_path = ["_templates"]
nitpicky = True
# Nothing is fetched while the pages are built, so that names of other packages are not links.
nitpick_ignore_regex = [
    (r"py:.*", r"(collections|dask|dask_ml|jax|matplotlib|numpy|os|pathlib|scipy|sklearn)\..*"),
]
default_role = "py:obj"

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

toc_object_entries_show_parents = "hide"
autosummary_generate = True
autosummary_context = {
    "own_methods": {
        name: own_methods(value)
        for module in (nlsq_sklearn, nlsq_sklearn.models)
        for name in module.__all__
        if isinstance(value := getattr(module, name), type)
    }
}
autodoc_typehints = "none"  # the docstrings tell more
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
numpydoc_attributes_as_param_list = True
numpydoc_validation_checks = {
    "GL02", "GL03", "GL07", "GL08",  # a docstring, its blank lines and the order of its sections
    "PR01", "PR02", "PR03", "PR04",  # each parameter, its type and what it is
    "RT01", "YD01",  # what is returned
    "SS01", "SS03",  # a summary, with a full stop
}  # fmt: skip

plot_formats = ["svg"]
plot_html_show_formats = False
plot_html_show_source_link = False
plot_include_source = True
plot_rcparams = {"figure.constrained_layout.use": True, "figure.figsize": (6, 4)}

html_math_renderer = "mathml"
html_theme = "pydata_sphinx_theme"
html_title = "nlsq_sklearn"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_context = {"default_mode": "auto"}
html_show_sourcelink = False
html_copy_source = False
html_sidebars = {
    "index": [],
    "quick_start": [],
    "comparison": [],
    "changelog": [],
    "contributing": [],
}
html_theme_options = {
    "logo": {"text": "nlsq_sklearn"},
    "header_links_before_dropdown": 5,
    "navbar_end": ["theme-switcher"],
    "show_prev_next": True,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "friendly",
    "pygments_dark_style": "monokai",
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
