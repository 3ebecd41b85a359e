"""Submit jobs to Slurm, wait for them, look at them, cancel them.

`sbatch --wait` looks at growing intervals of up to 32 s; `wait` asks
scontrol five times a second.
"""

import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from workshop.errors import UserError
from workshop.paths import root
from workshop.slurm.access import environment
from workshop.slurm.profile import Profile, load

POLL_S = 0.2
CANCEL_TIMEOUT_S = 60
ANSWER_TIMEOUT_S = 120
"""Slurm's own commands give up after a minute or so: this is a hang."""
GOING = frozenset({
    "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED",
    "STOPPED", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD",
    "RESIZING", "SIGNALING", "STAGE_OUT",
    "SPECIAL_EXIT", "RESV_DEL_HOLD",
})  # fmt: skip


@dataclass(frozen=True)
class JobState:
    """A job's state in Slurm's words, and how it ended.

    `exit_code` is that of the script, 128 + n if signal n ended it.
    For an array they belong to the first task that is not COMPLETED.
    """

    job_id: int
    state: str
    exit_code: int
    reason: str
    nodes: str
    output: str

    @property
    def ended(self) -> bool:
        """Whether the job will not run any more."""
        return self.state not in GOING


class JobEnded(UserError):
    """A job ended otherwise than COMPLETED; `.job` is its JobState."""

    def __init__(self, message: str, job: JobState) -> None:
        super().__init__(message)
        self.job = job


def submit(
    script: str | Path,
    args: Sequence[str] = (),
    profile: Profile | None = None,
    *,
    nodes: int | None = None,
    gpus_per_node: int | None = None,
    options: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> int:
    """Submit a script from the repository's root, return the job's id.

    Args:
        script: the sbatch file; relative paths start at the root.
        args: arguments of the script.
        profile: the site; None takes `profile.load()`.
        nodes, gpus_per_node: instead of what the script asks for.  GPUs
            that the script asks for are capped at the profile's.
        options: further options of sbatch.
        variables: further variables of the job.

    Raises:
        UserError: no Slurm here, the script is missing, or sbatch
            rejects the job, with its words in the sentence.
    """
    profile = profile or load()
    script = root() / script
    if not script.is_file():
        raise UserError(f"there is no script {script}: check the path")
    if gpus_per_node is None:
        gpus_per_node = _capped(script, profile)
    shape = _logged(script)
    if nodes is not None:
        shape.append(f"--nodes={nodes}")
    if gpus_per_node is not None:
        shape.append(f"--gpus-per-node={gpus_per_node}")
    env = environment() | {
        "WORKSHOP_ROOT": str(root()),
        "WORKSHOP_PROFILE": profile.name,
        "WORKSHOP_SETUP": str(profile.write_setup()),
        **(variables or {}),
    }
    words = ["sbatch", "--parsable", *profile.sbatch_options(), *shape]
    done = _run([*words, *options, str(script), *args], env)
    if done.returncode != 0:
        raise UserError(
            f"Slurm rejected {script.name} ({_words(done.stderr)}): ask for "
            "what the site has, see its profile in slurm/profiles"
        )
    return int(done.stdout.strip().split(";")[0])


def _capped(script: Path, profile: Profile) -> int | None:
    asked = _asked(script, r"gpus-per-node=(\d+)")
    return min(int(asked), profile.gpus_per_node) if asked else None


def _logged(script: Path) -> list[str]:
    """Return the option that keeps in slurm/logs what names no folder."""
    asked = _asked(script, r"output=([^/\s]+)$")
    return [f"--output=slurm/logs/{asked}"] if asked else []


def _asked(script: Path, option: str) -> str:
    line = rf"(?m)^#SBATCH\s+--{option}"
    return next(iter(re.findall(line, script.read_text())), "")


def tasks(job_id: int) -> list[dict[str, str]]:
    """Return scontrol's fields of a job, one dictionary per array task.

    Raises:
        UserError: Slurm knows no such job.
    """
    env = environment()
    done = _run(["scontrol", "-o", "show", "job", str(job_id)], env)
    if done.returncode != 0:
        raise UserError(
            f"Slurm knows no job {job_id} ({_words(done.stderr)}): see "
            "`squeue` for those it has"
        )
    lines = [x for x in done.stdout.splitlines() if x.startswith("JobId=")]
    return [_fields(line) for line in lines]


def info(job_id: int) -> dict[str, str]:
    """Return scontrol's fields of a job (of an array: of one task)."""
    return tasks(job_id)[0]


def _fields(line: str) -> dict[str, str]:
    words = re.split(r" (?=[A-Z][A-Za-z_/:]*=)", line.strip())
    return dict(word.split("=", 1) for word in words)


def state(job_id: int) -> JobState:
    """Return the present state of a job, an array counted as one."""
    states = [_state(job_id, fields) for fields in tasks(job_id)]
    return min(states, key=lambda job: (job.ended, job.state == "COMPLETED"))


def _state(job_id: int, fields: dict[str, str]) -> JobState:
    code, _, signal = fields.get("ExitCode", "0:0").partition(":")
    exit_code = 128 + int(signal) if signal not in ("", "0") else int(code)
    return JobState(
        job_id=job_id,
        state=fields["JobState"],
        exit_code=exit_code,
        reason=fields.get("Reason", ""),
        nodes=fields.get("NodeList", "").replace("(null)", ""),
        output=fields.get("StdOut", ""),
    )


def wait(
    job_id: int,
    timeout: float | None = None,
    on_state: Callable[[JobState], None] | None = None,
    *,
    check: bool = True,
) -> JobState:
    """Wait until a job has ended; Ctrl-C cancels it.

    Args:
        timeout: seconds to wait; the job goes on when they are over.
        on_state: called at first and then whenever the state changes.
        check: raise for every other end than COMPLETED.

    Raises:
        JobEnded: the job failed, timed out or was cancelled.
        UserError: it had not ended after `timeout` seconds.
    """
    ends = None if timeout is None else time.monotonic() + timeout
    last: JobState | None = None
    try:
        while True:
            now = state(job_id)
            if now != last and on_state is not None:
                on_state(now)
            last = now
            if now.ended:
                break
            if ends is not None and time.monotonic() >= ends:
                raise UserError(
                    f"job {job_id} is still {now.state} after {timeout:g} s "
                    f"of waiting: look at {now.output or 'squeue'}, or end "
                    f"it with `scancel {job_id}`"
                )
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        cancel(job_id)
        raise
    if check and last.state != "COMPLETED":
        raise JobEnded(_why(last), last)
    return last


def cancel(job_id: int) -> JobState:
    """Cancel a job, wait until its processes are gone, return its state.

    Raises:
        UserError: Slurm knows no such job or could not end it in time.
    """
    state(job_id)
    _run(["scancel", str(job_id)], environment())
    ends = time.monotonic() + CANCEL_TIMEOUT_S
    while not (now := state(job_id)).ended:
        if time.monotonic() > ends:
            raise UserError(
                f"job {job_id} is still {now.state} {CANCEL_TIMEOUT_S} s "
                f"after scancel: try `scancel --signal=KILL {job_id}`"
            )
        time.sleep(POLL_S)
    return now


def _why(job: JobState) -> str:
    where = f" on {job.nodes}" if job.nodes else ""
    if job.state == "TIMEOUT":
        return (
            f"job {job.job_id} ran out of its time limit{where}: raise it "
            f"with --time; its output is in {job.output}"
        )
    if job.state == "CANCELLED":
        return (
            f"job {job.job_id} was cancelled{where}: submit it again; its "
            f"output is in {job.output}"
        )
    return (
        f"job {job.job_id} ended as {job.state} with exit code "
        f"{job.exit_code}{where}: read {job.output}{_last_line(job.output)}"
    )


def _last_line(output: str) -> str:
    try:
        lines = Path(output).read_text(errors="replace").split("\n")
    except OSError:
        return ""
    said = [x.strip() for x in lines if x.strip() and x[:5] != "srun:"]
    return f", which ends with {said[-1]!r}" if said else ", which is empty"


def _run(
    words: list[str], env: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    # A session of its own: Ctrl-C must end the wait, not this command.
    try:
        return subprocess.run(
            words,
            env=dict(env),
            cwd=root(),
            capture_output=True,
            text=True,
            start_new_session=True,
            check=False,
            timeout=ANSWER_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{words[0]} had no answer from Slurm in {ANSWER_TIMEOUT_S} s: "
            "its controller hangs, see `scontrol ping`, then try again"
        ) from None
    except FileNotFoundError:
        raise UserError(
            f"{words[0]} not found: Slurm's commands are missing on "
            f"{os.uname().nodename}, see `workshop doctor`"
        ) from None


def _words(text: str) -> str:
    """Return what a command said in one line, without its prefixes."""
    lines = [re.sub(r"^\w+: (error: )?", "", x) for x in text.splitlines()]
    return "; ".join(line.strip() for line in lines if line.strip())
