"""A page that shows a stale run opens with a banner, and the build says so.

Stale is not wrong: the code on the measured path has changed since. It
warns, and does not fail the build; `workshop runs check --release` does.
"""

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

from workshop_book import used

LOGGER = logging.getLogger(__name__)


def banner(stale: dict[str, str]) -> nodes.admonition:
    """Return the banner for runs and the dates of their records."""
    box = nodes.admonition(classes=["warning", "stale-banner"])
    box += nodes.title("", "Stale numbers")
    text = nodes.paragraph(
        "",
        "The code that these runs measured has changed since they were "
        "recorded: ",
    )
    for number, (name, date) in enumerate(sorted(stale.items())):
        text += nodes.Text(", " if number else "")
        text += nodes.literal("", name)
        text += nodes.Text(f" on {date}")
    text += nodes.Text(".")
    box += text
    return box


def place(app: Sphinx, doctree: nodes.document) -> None:
    """Put the banner under the title of the page."""
    page = used.of(app.env).get(app.env.docname, {})
    stale = {name: date for name, date in page.items() if date}
    top = next(iter(doctree.findall(nodes.section)), None)
    if stale and top is not None:
        top.insert(1, banner(stale))


def warn(app: Sphinx, exception: Exception | None) -> None:
    """List the stale runs at the end of a build."""
    if exception:
        return
    for docname, page in sorted(used.of(app.env).items()):
        for name, date in sorted(page.items()):
            if date:
                LOGGER.info(
                    "stale: %s shows %s, recorded on %s before its code "
                    "changed",
                    docname,
                    name,
                    date,
                    color="yellow",
                )


def register(app: Sphinx) -> None:
    """Connect to the events of a build."""
    app.connect("doctree-read", place)
    app.connect("build-finished", warn)
