"""The directive `runs-status`: every run, its state, and how to repeat it."""

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

from workshop import paths
from workshop.errors import UserError
from workshop.records import experiments
from workshop.records.experiments import Experiment
from workshop.records.expression import Loader
from workshop.records.record import recorded_names
from workshop.records.status import prediction
from workshop_book import problems, provenance, used

HEADS = ("Run", "State", "Recorded")


class RunsStatus(provenance.RecordDirective):
    """One table a chapter, and the planned runs with their predictions."""

    def read(self) -> list[nodes.Node]:
        """Return the tables; report each run that cannot be shown."""
        described = experiments.read()
        chapters: dict[str, list[Experiment]] = {}
        for experiment in described.values():
            chapters.setdefault(experiment.chapter, []).append(experiment)
        tables: list[nodes.Node] = []
        for chapter, members in chapters.items():
            rows = [self._row(experiment) for experiment in members]
            tables.append(self._table(chapter, rows))
        for name in recorded_names(paths.records()):
            if name not in described:
                self._report(
                    f"{name} has a record but is not in "
                    "slurm/experiments: describe it there or remove "
                    "its folder"
                )
        return tables

    def _report(self, text: str) -> None:
        problems.report(self.env, self.env.docname, self.lineno, text)

    def _row(self, experiment: Experiment) -> list[list[nodes.Node]]:
        name = [nodes.paragraph("", experiment.title)]
        name += [nodes.paragraph("", "", nodes.literal("", experiment.name))]
        state, recorded = self._state(experiment)
        return [
            name,
            [nodes.paragraph("", state, classes=["state", f"is-{state}"])],
            recorded,
        ]

    def _state(self, experiment: Experiment) -> tuple[str, list[nodes.Node]]:
        name = experiment.name
        try:
            run = self.env.app.workshop_runs.load(name)
        except UserError as error:
            if experiment.planned:
                load = self.env.app.workshop_runs.load
                return "planned", planned(experiment, load)
            self._report(str(error))
            return "unusable", [nodes.paragraph("", f"{error}.")]
        used.note(self.env, self.env.docname, [run])
        text = nodes.paragraph("", f"{run.provenance()}. Repeat it with ")
        text += nodes.literal("", f"workshop runs submit --again {name}")
        text += nodes.Text(".")
        cell = [text, *provenance.stale_note([run])]
        if run.finding.note:
            note = f"{run.finding.note[0].upper()}{run.finding.note[1:]}."
            cell.append(nodes.paragraph("", note))
        return run.status, cell

    def _chapter(self, docname: str) -> nodes.Node:
        if docname not in self.env.found_docs:
            return nodes.literal("", docname)
        return pending_xref(
            "",
            nodes.inline("", docname),
            refdomain="std",
            reftype="doc",
            reftarget=f"/{docname}",
            refexplicit=False,
            refwarn=True,
            refdoc=self.env.docname,
        )

    def _table(self, chapter: str, rows: list) -> nodes.table:
        table = nodes.table(classes=["runs-status"])
        table += nodes.title("", "Runs of ", self._chapter(chapter))
        group = nodes.tgroup(cols=len(HEADS))
        group += [nodes.colspec(colwidth=w) for w in (30, 10, 60)]
        heads = [[nodes.paragraph("", head)] for head in HEADS]
        group += nodes.thead("", row_of(heads))
        group += nodes.tbody("", *(row_of(row) for row in rows))
        table += group
        self.set_source_info(table)
        return table


def planned(experiment: Experiment, load: Loader) -> list[nodes.Node]:
    """Return why a run is not recorded yet, and what is predicted.

    The numbers of a prediction are expressions over records.
    """
    paragraphs = []
    for label, text in (
        ("Not recorded yet", experiment.why),
        ("Predicted", prediction(experiment.prediction, load)),
    ):
        if text:
            paragraphs.append(nodes.paragraph("", f"{label}: {text}"))
    return paragraphs or [nodes.paragraph("", "Not recorded yet.")]


def row_of(cells: list[list[nodes.Node]]) -> nodes.row:
    """Return a table row of cells."""
    return nodes.row("", *(nodes.entry("", *cell) for cell in cells))


def register(app: Sphinx) -> None:
    """Add the directive."""
    app.add_directive("runs-status", RunsStatus)
