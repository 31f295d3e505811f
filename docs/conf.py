"""How the documentation is built: `make docs`. Strict, offline, from the pages here and the docstrings of `src`."""

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

from loralab import __version__

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "extensions"))

project = "loralab"
author = "the loralab authors"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "mathml", "tree"]
exclude_patterns = ["**/__pycache__"]
nitpicky = True
# Types in signatures that have no page here: other libraries' and our own inner ones.
nitpick_ignore_regex = [("py:(class|data|obj)", r"(?!loralab\.[A-Za-z_]+$).*")]

myst_enable_extensions = ["deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 4
default_role = "code"  # docstrings write names between single backticks

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
add_module_names = False

html_title = "loralab"
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_copy_source = False
html_math_renderer = "mathml"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b6e99", "color-brand-content": "#0b6e99"},
    "dark_css_variables": {"color-brand-primary": "#6cb8dc", "color-brand-content": "#6cb8dc"},
}


def keep_together(app: Sphinx, page: str, source: list[str]) -> None:
    """A figure and its spread stay on one line, and in tables two figures of one cell."""
    text = source[0].replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")
    source[0] = re.sub(r"(?<=\d) / (?=[\dr])", "\N{NO-BREAK SPACE}/\N{NO-BREAK SPACE}", text)


def setup(app: Sphinx) -> None:
    app.connect("source-read", keep_together)
