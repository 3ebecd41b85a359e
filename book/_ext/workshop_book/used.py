"""Which runs a page uses, and loading them once for a whole build."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from workshop.errors import UserError
from workshop.records.load import Run, load
from workshop_book import problems

CELL = re.compile(r"""\brecorded\(\s*["']([^"']+)["']""")
UNUSABLE = ("failed", "altered")


class Runs:
    """Loads each run once and notes which ones were asked for."""

    def __init__(self) -> None:
        self._loaded: dict[str, Run] = {}
        self._asked: list[Run] = []

    def load(self, name: str) -> Run:
        """Return a run whose numbers may stand in the book."""
        if name not in self._loaded:
            self._loaded[name] = load(name)
        run = self._loaded[name]
        if run not in self._asked:
            self._asked.append(run)
        if run.status in UNUSABLE:
            raise UserError(unusable(run))
        return run

    @contextmanager
    def noting(self) -> Iterator[list[Run]]:
        """Yield a list that fills with the runs loaded meanwhile."""
        before, mine = self._asked, []
        self._asked = mine
        try:
            yield mine
        finally:
            self._asked = before
            before.extend(run for run in mine if run not in before)


def unusable(run: Run) -> str:
    """Return the sentence that says why a run may not be used."""
    return (
        f"the record of {run.name} is {run.status} ("
        f"{run.finding.problem.rstrip('.')}): repeat it with "
        f"`workshop runs submit {run.name}`"
    )


def of(env: BuildEnvironment) -> dict[str, dict[str, str]]:
    """Return, for every page, its stale runs' dates and '' for fresh ones."""
    if not hasattr(env, "workshop_used"):
        env.workshop_used = {}
    return env.workshop_used


def note(env: BuildEnvironment, docname: str, runs: list[Run]) -> None:
    """Remember that a page shows something from these runs."""
    page = of(env).setdefault(docname, {})
    for run in runs:
        page[run.name] = run.date if run.status == "stale" else ""


def scan_cells(app: Sphinx, docname: str, source: list[str]) -> None:
    """Note the runs that a page's cells show with `recorded(...)`."""
    for match in CELL.finditer(source[0]):
        line = source[0].count("\n", 0, match.start()) + 1
        try:
            note(app.env, docname, [app.workshop_runs.load(match[1])])
        except UserError as error:
            problems.report(app.env, docname, line, str(error))


def begin(app: Sphinx) -> None:
    """Start a build with nothing loaded."""
    app.workshop_runs = Runs()


def forget(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    """Drop what is known of a page before it is read again."""
    of(env).pop(docname, None)


def merge(
    app: Sphinx, env: BuildEnvironment, docnames: set[str], other
) -> None:
    """Take over what another process read."""
    of(env).update({d: u for d, u in of(other).items() if d in docnames})


def register(app: Sphinx) -> None:
    """Connect to the events of a build."""
    app.connect("builder-inited", begin)
    app.connect("source-read", scan_cells)
    app.connect("env-purge-doc", forget)
    app.connect("env-merge-info", merge)
