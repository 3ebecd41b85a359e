"""MathJax from the project's own `node_modules`, copied into the site."""

import shutil
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import ConfigError

from workshop import paths

PARTS = (
    "tex-mml-chtml.js",
    "output/chtml/fonts",
    "input/tex/extensions",
    "a11y",
    "sre",
    "ui",
)
TARGET = Path("_static", "vendor", "mathjax")


def copy(app: Sphinx) -> None:
    """Copy what the pages load; they load nothing from elsewhere."""
    if app.builder.format != "html":
        return
    source = paths.root() / "node_modules" / "mathjax" / "es5"
    if not source.is_dir():
        raise ConfigError(
            "MathJax is not installed: run `make javascript` first"
        )
    for part in PARTS:
        target = Path(app.outdir) / TARGET / part
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if (source / part).is_dir():
            shutil.copytree(source / part, target)
        else:
            shutil.copy2(source / part, target)


def register(app: Sphinx) -> None:
    """Connect to the start of a build."""
    app.connect("builder-inited", copy)
