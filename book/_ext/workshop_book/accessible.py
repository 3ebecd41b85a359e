"""Repair what the theme and docutils write against WCAG 2.1, in each page.

Each pattern is one fault that axe-core calls serious: a button whose label
lacks its own visible words, and a list with children that are no items.
"""

import re
from pathlib import Path

from sphinx.application import Sphinx

SEARCH = r'(<button class="btn search-button-field[^>]*?) aria-label="[^"]*"'
SWITCH = r'(<i class="theme-switch [^>]*data-mode="\w+")\s+title="[^"]*"'
REPAIRS = (
    (SEARCH, r"\1"),
    (SWITCH, r'\1 aria-hidden="true"'),
    ('<div role="list" class="citation-list">',
     '<div class="citation-list">'),
)  # fmt: skip


def repaired(html: str) -> str:
    """Return the text of a page with every fault repaired."""
    for pattern, better in REPAIRS:
        html = re.sub(pattern, better, html)
    return html


def rewrite(app: Sphinx, exception: Exception | None) -> None:
    """Repair the pages that were written."""
    if exception or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        if "_static" in path.parts:
            continue
        before = path.read_text()
        after = repaired(before)
        if after != before:
            path.write_text(after)


def register(app: Sphinx) -> None:
    """Connect to the end of a build."""
    app.connect("build-finished", rewrite)
