"""How Sphinx builds the site from what ``tools.site`` laid into its folder; `make site` runs both.

Nothing is executed: a lecture's page shows the outputs that its file holds. Nothing is loaded from elsewhere.
"""

import re
from typing import Any

from dynlib import __version__ as release  # noqa: F401  (Sphinx reads it)

project = "dynlib"
author = "the authors of dynlib"
html_title = "dynlib"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns: list[str] = []
html_theme = "sphinx_book_theme"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = [("site.js", {"defer": "defer"})]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_last_updated_fmt = None
html_favicon = "_static/mark.svg"
html_context = {"default_mode": "auto"}
pygments_style = "a11y-high-contrast-light"  # the theme writes over it at the end, with both of its own below
html_sidebars = {"**": ["navbar-logo.html", "search-button-field.html", "sbt-sidebar-nav.html"]}
html_theme_options: dict[str, Any] = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "use_source_button": False,
    "home_page_in_toc": True,
    "show_navbar_depth": 1,
    **{f"navbar_{place}": [] for place in ("start", "center", "end", "persistent")},
    "toc_title": "On this page",
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}

nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
myst_links_external_new_tab = False
mathjax_path = "mathjax/startup.js"
mathjax_options = {"defer": "defer"}
mathjax3_config = {
    "loader": {"load": ["core", "input/tex", "output/chtml", "a11y/assistive-mml"]},
    "options": {"enableMenu": False},
}

autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True
viewcode_line_numbers = False

suppress_warnings = ["myst.header", "mystnb.unknown_mime_type", "ref.python"]

# Docstrings are written to be read in a terminal: a bar is a bar there, and a star before a name is not yet emphasis.
_OPEN_STAR = re.compile(r"(?<![*\\\s(])\*(?=[\w(])|(?<=\[)\*|(?<=, )\*(?=\w+\])")


def _literal(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    for at, line in enumerate(lines):
        pieces = line.split("``")  # every second one is code
        pieces[::2] = [_OPEN_STAR.sub(r"\\*", piece.replace("|", r"\|")) for piece in pieces[::2]]
        lines[at] = "``".join(pieces)


_DESCRIBED: dict[int, str] = {}


def _once(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    # What two parts of the package offer is described on the page that is read first.
    if what != "module" or not (isinstance(obj, type) or callable(obj)):
        return None
    page = app.env.current_document.docname
    return True if _DESCRIBED.setdefault(id(obj), page) != page else None


def setup(app: Any) -> None:
    """Sphinx calls it."""
    app.connect("autodoc-process-docstring", _literal)
    app.connect("autodoc-skip-member", _once)
