"""Of the documentation: ``make docs``. Needs neither the C++ extension nor a GPU."""

import importlib.util
import sys
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MADE = HERE / "_made"  # pictures and pages that the build writes
sys.path[:0] = [str(HERE), str(HERE.parent)]
warnings.filterwarnings("ignore", message="fastpixcon runs on its slow reference")

import pages  # noqa: E402
import pictures  # noqa: E402

import fastpixcon  # noqa: E402

pictures.draw(MADE)
pages.write(MADE)

project = "fastpixcon"
author = "the fastpixcon authors"
copyright = author
release = version = fastpixcon.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_title = f"fastpixcon {version}"
exclude_patterns = ["_made/*.md"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_mock_imports = [
    name for name in ("pytorch_metric_learning", "lightning") if importlib.util.find_spec(name) is None
]
napoleon_numpy_docstring = False
suppress_warnings = ["myst.header"]  # results of benchmarks may begin with any level
# No inventories of other projects: the build reads nothing from the network.
nitpick_ignore_regex = [("py:.*", r"(torch|nn|lightning|pytorch_metric_learning|collections|optional)\b.*")]
nitpick_ignore_regex += [("py:.*", r"(Tensor|Any|.*\.(Bank|Miner|\w*Case)|BaseMetricLossFunction|dict\[str)")]
nitpick_ignore_regex += [("py:class", r"fastpixcon\.testing\.(own|accuracy)\..*")]  # what results are made of


def contract(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """The contract of an operator is a table made of spaces: shown as it stands."""
    if what == "module" and name.startswith("fastpixcon.ops."):
        lines[:] = [".. code-block:: text", "", *(f"   {line}" for line in lines), ""]


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", contract)
