"""Where a page's runs were recorded: one folded block a page.

It holds every run that a role, a table, a figure or a cell of the page
reads.  It stands where the page has a `run-provenance`, else at its end;
names after the directive are shown too.
"""

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from workshop.errors import UserError
from workshop.records.load import Run
from workshop_book import problems, used

SUMMARY = "Where the numbers of this page come from"
OPEN = f'<details class="provenance"><summary>{SUMMARY} (%s)</summary>'


class block(nodes.General, nodes.Element):
    """The place of the folded block, until the page is read."""


def stale_note(runs: list[Run]) -> list[nodes.Node]:
    """Return a dated banner for the stale ones among runs, if any."""
    old = [run for run in runs if run.status == "stale"]
    if not old:
        return []
    named = ", ".join(f"{run.name} on {run.date}" for run in old)
    return [
        nodes.paragraph(
            "",
            f"Stale: recorded before its code changed ({named}).",
            classes=["stale-note"],
        )
    ]


class RecordDirective(SphinxDirective):
    """A directive that reads records and reports what is wrong with them."""

    def run(self) -> list[nodes.Node]:
        """Return the nodes, or report and show nothing."""
        try:
            with self.env.app.workshop_runs.noting() as read:
                content = self.read()
                used.note(self.env, self.env.docname, read)
                return content
        except UserError as error:
            problems.report(
                self.env, self.env.docname, self.lineno, str(error)
            )
            return []

    def read(self) -> list[nodes.Node]:
        """Return what the directive shows."""
        raise NotImplementedError

    def runs(self, text: str) -> list[Run]:
        """Return the runs of a list of names, commas or spaces between."""
        names = text.replace(",", " ").split()
        return [self.env.app.workshop_runs.load(name) for name in names]


class ProvenanceDirective(RecordDirective):
    """Mark where the page's block stands."""

    optional_arguments = 1
    final_argument_whitespace = True

    def read(self) -> list[nodes.Node]:
        """Return the mark, and note the runs that are named."""
        self.runs(" ".join(self.arguments))
        return [block()]


def folded(runs: list[Run]) -> list[nodes.Node]:
    """Return the block: a closed heading, and below it an item a run."""
    items = nodes.bullet_list(classes=["run-provenance"])
    for run in runs:
        text = nodes.paragraph("", "", nodes.strong("", run.name))
        text += nodes.Text(f": {run.provenance()}. Repeat it with ")
        text += nodes.literal("", f"workshop runs submit {run.name}")
        text += nodes.Text(".")
        items += nodes.list_item("", text, *stale_note([run]))
    count = f"{len(runs)} run{'s' if len(runs) > 1 else ''}"
    begin = nodes.raw("", OPEN % count, format="html")
    return [begin, items, nodes.raw("", "</details>", format="html")]


def place(app: Sphinx, doctree: nodes.document) -> None:
    """Put the block of a page where it is marked, else at the end.

    A page that lists all runs itself needs none.
    """
    names = sorted(used.of(app.env).get(app.env.docname, {}))
    marks = list(doctree.findall(block))
    listed = any(
        "runs-status" in table["classes"]
        for table in doctree.findall(nodes.table)
    )
    sections = [n for n in doctree.children if isinstance(n, nodes.section)]
    if names and not marks and not listed and sections:
        marks = [block()]
        sections[-1] += marks[0]
    for number, mark in enumerate(marks):
        runs = [app.workshop_runs.load(name) for name in names]
        shown = folded(runs) if runs and number == 0 else []
        mark.parent.replace(mark, shown)


def register(app: Sphinx) -> None:
    """Add the directive."""
    app.add_directive("run-provenance", ProvenanceDirective)
    app.connect("doctree-read", place)
