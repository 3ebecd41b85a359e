"""Where runs were recorded, in one line or a short list."""

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from workshop.errors import UserError
from workshop.records.load import Run
from workshop_book import problems, used

SEPARATOR = " · "


def merged(runs: list[Run]) -> str:
    """Return one line for several runs: each part's distinct values."""
    lines = [run.provenance().split(SEPARATOR) for run in runs]
    if len({len(parts) for parts in lines}) > 1:
        return "; ".join(SEPARATOR.join(parts) for parts in lines)
    columns = zip(*lines, strict=True)
    return SEPARATOR.join(
        " and ".join(dict.fromkeys(column)) for column in columns
    )


def line(runs: list[Run]) -> nodes.inline:
    """Return the provenance of runs as it stands under a caption."""
    return nodes.inline(
        "", f"Recorded: {merged(runs)}.", classes=["provenance"]
    )


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
    """Show where runs were recorded and how to repeat them."""

    required_arguments = 1
    final_argument_whitespace = True

    def read(self) -> list[nodes.Node]:
        """Return one item a run."""
        items = nodes.bullet_list(classes=["run-provenance"])
        for run in self.runs(self.arguments[0]):
            text = nodes.paragraph("", "", nodes.strong("", run.name))
            text += nodes.Text(f" — {run.provenance()}. Repeat it with ")
            text += nodes.literal("", f"workshop runs submit {run.name}")
            text += nodes.Text(".")
            items += nodes.list_item("", text, *stale_note([run]))
        return [items]


def register(app: Sphinx) -> None:
    """Add the directive."""
    app.add_directive("run-provenance", ProvenanceDirective)
