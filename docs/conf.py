"""Sphinx builds the manual from these pages: `python -m sphinx -W -n docs build/manual`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

from importlib.util import find_spec

import poolagg

project = "poolagg"
author = project_copyright = "The poolagg maintainers"
release = version = poolagg.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton", "aligned_docstrings", "command_help",
              "one_signature"]  # fmt: skip
exclude_patterns = ["_extensions"]
default_role = "code"  # docstrings write code in single backticks
highlight_language = "none"  # a block without a language shows what a program prints

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_use_type_comments = False
autodoc_mock_imports = [name for name in ("distributed", "ray") if find_spec(name) is None]
nitpick_ignore_regex = [("py:.*", ".*")]  # types in signatures; links and anchors of pages are checked all the same

html_theme = "furo"
html_title = "poolagg"
html_copy_source = False
html_domain_indices = html_use_index = False  # the reference lists all names, and no page led to these
html_static_path = ["_static"]
html_css_files = ["manual.css"]
html_theme_options = {"source_repository": "https://github.com/poolagg/poolagg/", "source_branch": "main",
                      "source_directory": "docs/"}  # fmt: skip
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
