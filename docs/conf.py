"""Settings of the documentation site: `make docs` builds it with Sphinx, MyST and furo (see CONTRIBUTING.md)."""

import logging
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_ext")]

from fairseq_kd import __version__  # noqa: E402

logging.getLogger("markdown_it").setLevel(logging.WARNING)  # fairseq's speech models set the root logger to DEBUG

project = "fairseq_kd"
copyright = "the authors of fairseq_kd, MIT licence"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "plain_docstrings",
    "command_help",
]
templates_path = ["_templates"]
html_static_path = ["_static"]
html_css_files = ["site.css"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "fairseq_kd"
html_theme_options = {"navigation_with_keys": True}

myst_heading_anchors = 3  # links such as page.md#a-heading, with the anchors that GitHub gives
myst_enable_extensions = ["colon_fence", "deflist"]

autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_default_options = {"members": True, "show-inheritance": False}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True

nitpicky = True
# Sphinx knows our own modules only; types of torch, numpy and the standard library are no links
nitpick_ignore_regex = [(r"py:.*", r".*")]
