"""A recorded cell: replay the record, run it here small, or submit it.

`WORKSHOP_RUN` chooses: `replay` (the default), `local` or `slurm`.
"""

import os
from html import escape

from IPython import get_ipython
from IPython.display import display

from workshop import paths
from workshop.errors import UserError
from workshop.records import experiments, job, record, schema, submit
from workshop.records.experiments import Experiment
from workshop.records.files import digest, tree_digests
from workshop.records.load import Run, load
from workshop.slurm import profile as profiles
from workshop.slurm.jobs import JobState
from workshop.slurm.profile import Profile

WAYS = ("replay", "local", "slurm")
LINES = 12


def recorded(name: str, lines: int = LINES) -> Run:
    """Show a run in the way that `WORKSHOP_RUN` says, and return it.

    replay: print where the record in book/runs comes from, its command
    and the last `lines` lines that it printed. local: run the small size
    here now, as the experiment is launched. slurm: submit it and wait; on
    a cluster without GPUs, the small size. Neither touches book/runs.

    Raises `UserError` when there is no such run, or when it fails.
    """
    way = os.environ.get("WORKSHOP_RUN") or "replay"
    if way not in WAYS:
        raise UserError(
            f"WORKSHOP_RUN is {way!r}: it is one of {', '.join(WAYS)}."
        )
    experiment = experiments.select([name], experiments.read())[0]
    if way == "replay":
        run = load(name)
        _replay(run, lines)
        return run
    site = profiles.load() if way == "slurm" else None
    small = site is None or not submit.real_gpus(site)
    key = _key(way, experiment, small)
    if before := _ran.get(key):
        print(f"The same command as for {before.name} above:")
        _show(before, lines)
        return Run(experiment.name, before.record, before.folder)
    if site is None:
        _ran[key] = _local(experiment)
    else:
        _ran[key] = _slurm(experiment, site, small, lines)
    return _ran[key]


# What this kernel has run. Several recorded sizes share one small size, and
# the same command need not run twice on the reader's machine.
_ran: dict[str, Run] = {}


def _key(way: str, experiment: Experiment, small: bool) -> str:
    """Hash everything that a run can depend on, but for its name."""
    sources = tree_digests(paths.root(), ("code", "slurm"))
    command = f"{experiment.launch} {experiment.module}"
    size = repr(experiment.size(small))
    return digest([way, str(paths.root()), command, size, sources])


def _replay(run: Run, lines: int) -> None:
    _head(run, f"Recorded: {run.provenance()}")
    if run.status == "stale":
        print(
            f"Stale: recorded on {run.date}, and its sources have changed "
            "since."
        )
    elif run.status != "fresh":
        raise UserError(run.finding.problem)
    _tail(run, lines)


def _head(run: Run, *before: str) -> None:
    """Show the command below some lines, folded where a page can fold."""
    text = "\n".join((*before, f"$ {run.record['command']}"))
    if get_ipython() is None:
        print(text)
        return
    summary = f"The command and the machine of {escape(run.name)}"
    folded = (
        f'<details class="recorded-command"><summary>{summary}</summary>'
        f"<pre>{escape(text)}</pre></details>"
    )
    display({"text/plain": text, "text/html": folded}, raw=True)


def _show(run: Run, lines: int) -> None:
    _head(run)
    _tail(run, lines)


def _tail(run: Run, lines: int) -> None:
    for line in run_lines(run.log)[-lines:]:
        print(line)


def run_lines(log: str) -> list[str]:
    """Return what the run itself printed in its last repeat."""
    lines = log.splitlines()
    marks = [i for i, line in enumerate(lines) if job.MARK.match(line)]
    begun = [i for i in marks if job.MARK.match(lines[i])[1] == "$"]
    if not begun:
        return []
    ends = [i for i in marks if i > begun[-1]] or [len(lines)]
    return lines[begun[-1] + 1 : ends[0]]


def _local(experiment: Experiment) -> Run:
    out = paths.root() / ".runs-local" / "here"
    folder, body = job.run(experiment, True, out)
    return _checked(Run(experiment.name, body, folder))


def _slurm(
    experiment: Experiment, site: Profile, small: bool, lines: int
) -> Run:
    if why := submit.refusal(experiment, site, small):
        raise UserError(f"{why}.")
    out = record.destination(small=True)

    def on_state(state: JobState) -> None:
        print(f"job {state.job_id}: {state.state.lower()}")

    limit = experiment.timeout
    done = submit.run_one(experiment, site, small, out, limit, on_state)
    if done.problem:
        raise UserError(done.problem)
    run = load(experiment.name, out)
    _show(run, lines)
    return run


def _checked(run: Run) -> Run:
    if run.record["status"] != schema.COMPLETED:
        why = f"{run.record['status']}: {run.record['reason']}"
        raise UserError(f"{run.name} {why}.")
    return run
