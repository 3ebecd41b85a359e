"""Choose experiments, submit them to Slurm one after another, and wait."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from workshop import paths
from workshop.errors import UserError
from workshop.records import record, repository, schema
from workshop.records.check import Finding
from workshop.records.experiments import Experiment
from workshop.slurm import jobs
from workshop.slurm.profile import Profile
from workshop.slurm.state import default_base
from workshop.slurm.state import load as load_layout

SCRIPT = "slurm/experiment.sbatch"
# Between submission and the job's first line, and from its last to its end.
OVERHEAD_S = 15


@dataclass(frozen=True)
class Outcome:
    """How one submission ended; `problem` is empty for a good record."""

    name: str
    job_id: int | None
    problem: str = ""
    folder: Path | None = None


def choose(
    experiments: list[Experiment],
    findings: dict[str, Finding],
    *,
    chapter: str = "",
    missing: bool = False,
    stale: bool = False,
    again: bool = False,
) -> list[Experiment]:
    """Return the experiments to submit, the most urgent (lowest) first.

    Those with a fresh record are done, so that a second call goes on where
    the first one stopped, unless `again`. `missing` and `stale` keep only
    runs of those states; a failed or altered record counts as missing.
    """
    wanted = set()
    if missing or not stale:
        wanted |= {"missing", "failed", "altered"}
    if stale or not missing:
        wanted.add("stale")
    if again:
        wanted.add("fresh")
    chosen = [
        each
        for each in experiments
        if not each.planned
        and findings[each.name].state in wanted
        and (not chapter or each.chapter == chapter)
    ]
    return sorted(chosen, key=lambda each: each.priority)


def refusal(experiment: Experiment, profile: Profile, small: bool) -> str:
    """Return why a site cannot run an experiment, or nothing."""
    if experiment.planned:
        return f"{experiment.name} is planned: {experiment.why}"
    size = experiment.size(small)
    wide = size.gpus_per_node > profile.gpus_per_node
    if size.nodes > profile.nodes or wide:
        return (
            f"{experiment.name} asks for {size.nodes} x "
            f"{size.gpus_per_node} (nodes x GPUs) and {profile.name} has "
            f"{profile.nodes} x {profile.gpus_per_node}: take another "
            "--profile, or --small where its small size fits"
        )
    if not small and experiment.needs_gpus and not real_gpus(profile):
        return (
            f"{experiment.name} needs {experiment.needs_gpus} GPUs and "
            "those of the local cluster are pretended: take --small, or a "
            "--profile with GPUs"
        )
    return ""


def real_gpus(profile: Profile) -> bool:
    """Whether a site's GPUs are GPUs, and no stand-ins on a CPU machine."""
    if profile.name != "local":
        return True
    layout = load_layout(default_base())
    return layout is not None and layout.real


def submit(
    experiment: Experiment,
    profile: Profile,
    small: bool,
    out: Path,
    limit: int,
) -> int:
    """Submit one experiment with a time limit in seconds; return its job."""
    size = experiment.size(small)
    git = repository.commit(paths.root())
    seconds = min(limit, experiment.timeout)
    # Slurm counts in minutes; the job itself keeps the exact limit, and
    # the minute more lets it write the record.
    minutes = math.ceil(seconds / 60) + 1
    arguments = [experiment.name, "--out", str(out)]
    return jobs.submit(
        SCRIPT,
        arguments + ["--small"] * small,
        profile,
        nodes=size.nodes,
        gpus_per_node=size.gpus_per_node or None,
        options=[f"--time={minutes}", f"--job-name={_job_name(experiment)}"],
        variables={
            "WORKSHOP_TIMEOUT": str(seconds),
            "WORKSHOP_COMMIT": git["commit"],
            "WORKSHOP_DIRTY": str(int(git["dirty"])),
        },
    )


def finished(
    experiment: Experiment, job: jobs.JobState, out: Path
) -> Outcome:
    """Return how a job ended, by the record that it wrote, if it did."""
    name, job_id = experiment.name, job.job_id
    target = out / name
    for folder in (target, target.with_name(target.name + record.FAILED)):
        if not (folder / "record.json").is_file():
            continue
        body = schema.read(folder / "record.json")
        if (body["slurm"] or {}).get("job_id") != job_id:
            continue
        if body["status"] == schema.COMPLETED:
            return Outcome(name, job_id, "", folder)
        problem = (
            f"{name}: job {job_id} {body['status']}: {body['reason']}: "
            f"read {folder / 'log.txt'}."
        )
        return Outcome(name, job_id, problem, folder)
    ended = job.state.lower().replace("_", " ")
    problem = (
        f"{name}: job {job_id} ended as {ended} before it could write a "
        f"record: read {job.output}."
    )
    return Outcome(name, job_id, problem)


class Budget:
    """Seconds that all submissions together may take; None is no limit."""

    def __init__(
        self,
        total: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._clock = total, clock
        self._begun = clock()

    def left(self) -> float:
        """Return the seconds left, infinite without a budget."""
        if self._total is None:
            return math.inf
        return self._total - (self._clock() - self._begun)

    def limit(self, experiment: Experiment) -> int:
        """Return the time limit that a job may have now, 0 for none.

        A job is only begun when its expected duration fits, and its limit
        is what is left, so that the budget holds even if it hangs.
        """
        left = self.left() - OVERHEAD_S
        if experiment.expected > left:
            return 0
        return int(min(experiment.timeout, left))


def run_one(
    experiment: Experiment,
    profile: Profile,
    small: bool,
    out: Path,
    limit: int,
    on_state: Callable[[jobs.JobState], None],
    wait_s: float | None = None,
) -> Outcome:
    """Submit, wait, and say how it ended; Ctrl-C cancels the job.

    `wait_s` ends a job that is still in the queue, or hangs beyond its
    limit, when a budget is over.
    """
    try:
        job_id = submit(experiment, profile, small, out, limit)
    except UserError as error:
        why = f"{experiment.name}: {str(error).rstrip('.')}."
        return Outcome(experiment.name, None, why)
    try:
        job = jobs.wait(job_id, wait_s, on_state, check=False)
    except UserError as error:
        job = jobs.cancel(job_id)
        why = f"{experiment.name}: {error}; it has been cancelled."
        return Outcome(experiment.name, job_id, why)
    return finished(experiment, job, out)


def _job_name(experiment: Experiment) -> str:
    return experiment.name.replace("/", "-")
