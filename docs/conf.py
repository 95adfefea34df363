"""How the documentation is built: Markdown pages, a reference from the docstrings, and tables that follow from the code."""

import os
import sys
from pathlib import Path

from airflow_customjob import __version__

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
# The operators' page imports Airflow, which makes itself a home.
os.environ.setdefault("AIRFLOW_HOME", str(HERE / "_build" / "airflow"))

import tables  # noqa: E402 - it lies beside this file

tables.write(HERE / "_build" / "generated")

project = "airflow-customjob"
author = "the airflow-customjob authors"
copyright = "the airflow-customjob authors, Apache-2.0"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]
highlight_language = "text"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
# Types of other packages have no page here to point to.
suppress_warnings = ["ref.python", "sphinx_autodoc_typehints"]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_title = f"airflow-customjob {__version__}"
