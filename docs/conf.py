"""How the documentation is built: Markdown pages, and a reference from the docstrings."""

from airflow_customjob import __version__

project = "airflow-customjob"
author = "the airflow-customjob authors"
copyright = "the airflow-customjob authors, Apache-2.0"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
# Types of other packages have no page here to point to.
suppress_warnings = ["ref.python", "sphinx_autodoc_typehints"]

html_theme = "furo"
html_title = f"airflow-customjob {__version__}"
