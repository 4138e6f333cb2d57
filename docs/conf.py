"""Settings of the documentation: ``make docs`` writes the site to build/docs."""

import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "ircdeblur"
author = "the ircdeblur authors"
project_copyright = author
try:
    release = metadata.version("ircdeblur")
except metadata.PackageNotFoundError:
    release = "unknown"

extensions = [
    "mathml",
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "results/*.md"]
default_role = "py:obj"

myst_enable_extensions = ["amsmath", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # numpydoc states the types, with shapes and units
autosummary_generate = True
numpydoc_show_class_members = False
numpydoc_attributes_as_param_list = True

# Nothing of the site comes from elsewhere: mathematics is MathML, written at build time (docs/_ext/mathml.py).
html_math_renderer = "mathml"
html_theme = "pydata_sphinx_theme"
html_title = f"ircdeblur {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_sidebars = {page: [] for page in ("index", "start", "how-it-works")}
html_theme_options = {
    "header_links_before_dropdown": 6,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
}


def _plain_mathematics(app, what, name, obj, options, lines):
    """Keep |x|^2, x* and the like as they are: docstrings have formulas as text, and no other use for these signs."""
    for number, line in enumerate(lines):
        pieces = line.split("``")
        # Every other piece is a literal.
        pieces[::2] = [piece.replace("|", "\\|").replace("*", "\\*") for piece in pieces[::2]]
        lines[number] = "``".join(pieces)


def setup(app):
    """Run before numpydoc, whose own markup has to stay."""
    app.connect("autodoc-process-docstring", _plain_mathematics, priority=100)
