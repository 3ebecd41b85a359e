"""What is wrong with a page's numbers: kept with it, so builds repeat it.

Sphinx says a warning when it reads a page and never again. A problem is
stored in the environment as well: each build says it, and ends with a
status that is not zero, for as long as the page has it, with `-W` or
without.
"""

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)


def of(env: BuildEnvironment) -> dict[str, list[tuple[str, str]]]:
    """Return the problems of every page as (place, sentence)."""
    if not hasattr(env, "workshop_problems"):
        env.workshop_problems = {}
    return env.workshop_problems


def report(env: BuildEnvironment, docname: str, line: int, text: str) -> None:
    """Say what is wrong in a line of a page and let the build fail."""
    place, text = f"{env.doc2path(docname)}:{line}", text.rstrip(".")
    of(env).setdefault(docname, []).append((place, text))
    say(env.app, place, text)


def say(app: Sphinx, place: str, text: str) -> None:
    """Say a problem once a build."""
    if (place, text) not in app.workshop_said:
        app.workshop_said.add((place, text))
        LOGGER.warning(text, location=place, type="workshop")


def begin(app: Sphinx, config: object) -> None:
    """Start a build with nothing said."""
    app.workshop_said = set()


def forget(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    """Drop a page's problems before it is read again."""
    of(env).pop(docname, None)


def merge(
    app: Sphinx, env: BuildEnvironment, docnames: set[str], other
) -> None:
    """Take over the problems that another process found."""
    of(env).update(
        {doc: said for doc, said in of(other).items() if doc in docnames}
    )


def finish(app: Sphinx, exception: Exception | None) -> None:
    """Repeat what earlier builds said; fail while there is anything."""
    if exception is None:
        for said in of(app.env).values():
            for place, text in said:
                say(app, place, text)
        if app.workshop_said:
            app.statuscode = 1


def register(app: Sphinx) -> None:
    """Connect to the events of a build."""
    app.connect("config-inited", begin)
    app.connect("env-purge-doc", forget)
    app.connect("env-merge-info", merge)
    app.connect("build-finished", finish, priority=900)
