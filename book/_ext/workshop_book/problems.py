"""What is wrong with a page's numbers: kept with it, so builds repeat it.

Sphinx says a warning when it reads a page and never again. A problem is
stored in the environment as well, and the build ends with an error for as
long as the page has one, with `-W` or without.
"""

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import SphinxError
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)


class BookError(SphinxError):
    """The book says something that its records do not bear out."""

    category = "Book error"


def of(env: BuildEnvironment) -> dict[str, list[str]]:
    """Return the problems of every page, by page."""
    if not hasattr(env, "workshop_problems"):
        env.workshop_problems = {}
    return env.workshop_problems


def report(env: BuildEnvironment, docname: str, line: int, text: str) -> None:
    """Say what is wrong in a line of a page and let the build fail."""
    text = text.rstrip(".")
    where = f"{env.doc2path(docname, base=False)}:{line}"
    of(env).setdefault(docname, []).append(f"{where}: {text}")
    LOGGER.warning(text, location=(docname, line), type="workshop")


def forget(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    """Drop a page's problems before it is read again."""
    of(env).pop(docname, None)


def merge(
    app: Sphinx, env: BuildEnvironment, docnames: set[str], other
) -> None:
    """Take over the problems that another process found."""
    of(env).update(
        {doc: found for doc, found in of(other).items() if doc in docnames}
    )


def finish(app: Sphinx, exception: Exception | None) -> None:
    """End the build with an error when any page has a problem."""
    found = [text for texts in of(app.env).values() for text in texts]
    if exception is None and found:
        raise BookError("\n".join([f"{len(found)} to repair:", *found]))


def register(app: Sphinx) -> None:
    """Connect to the events of a build."""
    app.connect("env-purge-doc", forget)
    app.connect("env-merge-info", merge)
    app.connect("build-finished", finish, priority=900)
