"""`workshop runs submit`: run experiments through Slurm and wait."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from workshop.errors import UserError, fail, one_sentence
from workshop.records import check, experiments, record
from workshop.records.experiments import Experiment
from workshop.records.files import seconds
from workshop.records.submit import (
    Budget,
    Outcome,
    choose,
    refusal,
    run_one,
)
from workshop.slurm import profile as profiles
from workshop.slurm.jobs import JobState
from workshop.slurm.local import environment

INTERRUPTED = 130
TAIL_BYTES = 2000


class LastLine(ProgressColumn):
    """The last line of the job's output, so that one sees it work."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        """Read the end of the file that the task names."""
        try:
            with open(task.fields["output"], "rb") as file:
                file.seek(0, 2)
                file.seek(max(0, file.tell() - TAIL_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            lines = []
        last = lines[-1].strip() if lines else ""
        return Text(last, style="dim", no_wrap=True, overflow="ellipsis")


@one_sentence
def submit(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Experiments; default: all without a fresh record."
        ),
    ] = None,
    chapter: Annotated[
        str, typer.Option(help="Only this chapter's experiments.")
    ] = "",
    missing: Annotated[
        bool, typer.Option("--missing", help="Only those without a record.")
    ] = False,
    stale: Annotated[
        bool, typer.Option("--stale", help="Only those with changed sources.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Those with a fresh record too.")
    ] = False,
    budget: Annotated[
        str, typer.Option(help="What all may take together, such as 9m.")
    ] = "",
    profile: Annotated[
        str, typer.Option(help="The site: a name in slurm/profiles.")
    ] = "",
    small: Annotated[
        bool, typer.Option("--small", help="The small sizes, for CPUs.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where records go; default book/runs, "
            "and .runs-local/slurm for small ones."
        ),
    ] = None,
) -> None:
    """Submit runs through Slurm, the most urgent first, and wait.

    Runs with a fresh record are left out, so that a second call goes on
    where the first stopped. Exit code 1: a job was refused, failed, timed
    out or was cancelled. 130: Ctrl-C, which also cancels the job.
    """
    described = experiments.read()
    selected = experiments.select(names or [], described)
    if chapter:
        experiments.of_chapter(chapter, described)
    out = (out or record.destination(small)).resolve()
    total = seconds(budget, "--budget") if budget else None
    try:
        environment()
        site = profiles.load(profile or None)
    except UserError as error:
        fail(str(error), code=1)
    findings = {
        each.name: check.examine(each.name, each, out / each.name)
        for each in selected
    }
    chosen = choose(
        selected,
        findings,
        chapter=chapter,
        missing=missing,
        stale=stale,
        again=again or small,
    )
    able = []
    refused = False
    named = [each for each in selected if each.planned] if names else []
    for experiment in [*named, *chosen]:
        if why := refusal(experiment, site, small):
            _say(f"left out: {why}.")
            refused = True
        else:
            able.append(experiment)
    if not able:
        if not refused:
            print("nothing to submit: every chosen run has its record")
        raise typer.Exit(1 if refused and names else 0)
    good = _all(able, site, small, out, Budget(total))
    raise typer.Exit(0 if good and not (refused and names) else 1)


def _all(
    able: list[Experiment],
    site: profiles.Profile,
    small: bool,
    out: Path,
    budget: Budget,
) -> bool:
    good = True
    for number, experiment in enumerate(able, start=1):
        limit = budget.limit(experiment)
        if not limit:
            left = max(0, int(budget.left()))
            _say(
                f"left out: {experiment.name} takes about "
                f"{experiment.expected} s and {left} s of the budget are "
                "left: call this again to go on."
            )
            continue
        title = f"{number}/{len(able)} {experiment.name}"
        outcome = _watched(experiment, site, small, out, limit, title, budget)
        if outcome.problem:
            _say(f"error: {outcome.problem}")
            good = False
        else:
            print(f"{experiment.name}: recorded by job {outcome.job_id}")
    return good


def _watched(
    experiment: Experiment,
    site: profiles.Profile,
    small: bool,
    out: Path,
    limit: int,
    title: str,
    budget: Budget,
) -> Outcome:
    left = budget.left()
    wait_s = None if left == float("inf") else left
    console = Console(stderr=True)
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        LastLine(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as progress:
        task = progress.add_task(f"{title}: submitting", output="")
        job_id: list[int] = []

        def on_state(job: JobState) -> None:
            job_id[:] = [job.job_id]
            words = f"{title}: job {job.job_id} {job.state.lower()}"
            progress.update(task, description=words, output=job.output)
            if not console.is_terminal:
                _say(words)

        try:
            return run_one(
                experiment, site, small, out, limit, on_state, wait_s
            )
        except KeyboardInterrupt:
            progress.stop()
            which = f"job {job_id[0]} is" if job_id else "the submission is"
            _say(f"interrupted: {which} cancelled; earlier records stand.")
            raise typer.Exit(INTERRUPTED) from None


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
