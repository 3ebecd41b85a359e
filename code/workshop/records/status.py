"""The status of every run, for `book/runs.md` and `workshop runs list`."""

import re
from dataclasses import dataclass
from pathlib import Path

from workshop import paths
from workshop.errors import UserError
from workshop.records import check, experiments, expression, schema
from workshop.records.experiments import Experiment
from workshop.records.files import is_file
from workshop.records.load import Run, devices, load

_PLACE = re.compile(r"\{([^{}]+?)(?::([^{}:]*))?\}")


@dataclass(frozen=True)
class Row:
    """One run: what it is, where its record comes from, how it stands.

    `state` is one of fresh, stale, missing, failed, altered and planned;
    `note` says what is wrong, or, for a planned run, why nobody has
    recorded it and what the model predicts.
    """

    name: str
    title: str
    chapter: str
    state: str
    when: str
    where: str
    commit: str
    note: str
    command: str


def table(records: Path | None = None, chapter: str = "") -> list[Row]:
    """Return a row for each experiment and record, in the file's order.

    With a chapter: for its experiments alone.

    Raises:
        UserError: no experiment is of that chapter.
    """
    root, records = paths.root(), records or paths.records()
    described = experiments.read()
    if chapter:
        findings = [
            check.examine(each.name, each, records / each.name, root)
            for each in experiments.of_chapter(chapter, described)
        ]
    else:
        findings = check.examine_all(described, records, root)
    return [
        _row(finding, described.get(finding.name), records)
        for finding in findings
    ]


def prediction(text: str, loader: expression.Loader) -> str:
    """Return a prediction with its `{expression:format}` parts evaluated.

    An expression is one over records; a prediction that needs a missing
    record says so in its place.
    """

    def value(match: re.Match) -> str:
        try:
            number = expression.evaluate(match[1], loader)
            return expression.formatted(number, match[2] or "")
        except UserError as error:
            return f"(not yet known: {error})"

    return _PLACE.sub(value, text)


def _row(
    finding: check.Finding, experiment: Experiment | None, records: Path
) -> Row:
    when = where = commit = ""
    file = records / finding.name / "record.json"
    if is_file(file):
        try:
            body = schema.read(file)
        except UserError:
            pass  # the finding says so already
        else:
            when, commit = body["ended"][:10], body["git"]["commit"][:9]
            where = _where(body)
    note = " ".join(filter(None, (finding.problem, finding.note)))
    if finding.state == "planned" and experiment:

        def loader(name: str) -> Run:
            return load(name, records)

        expected = prediction(experiment.prediction, loader)
        attempt = f"{note[0].upper()}{note[1:]}." if note else ""
        note = " ".join(filter(None, (experiment.why, expected, attempt)))
    return Row(
        name=finding.name,
        title=experiment.title if experiment else "",
        chapter=experiment.chapter if experiment else "",
        state=finding.state,
        when=when,
        where=where,
        commit=commit,
        note=note,
        command=f"workshop runs submit --again {finding.name}",
    )


def _where(body: dict) -> str:
    slurm = body["slurm"]
    job = f"job {slurm['job_id']}, " if slurm else ""
    return f"{job}{body['layout']}, {devices(body)}"
