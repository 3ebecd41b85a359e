"""Start and stop munged, slurmctld and the slurmds of a cluster."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from workshop.errors import UserError
from workshop.slurm import state
from workshop.slurm.local import strays
from workshop.slurm.state import Layout, environment

UP_TIMEOUT_S = 30
CONTROLLER_TIMEOUT_S = 3
JOBS_END_TIMEOUT_S = 30
ANSWER_TIMEOUT_S = 5
LOST = ("down", "fail", "error", "unknown", "future")


def start_munged(layout: Layout) -> None:
    """Start munge, which signs every message, with a key of its own."""
    key = layout.path("run", "munge.key")
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    _launch(
        layout,
        "munged",
        # It wants its socket open to all users, and the base is not.
        "--force",
        f"--key-file={key}",
        f"--socket={layout.path('sock', 'munge')}",
        f"--pid-file={layout.path('run', 'munged.pid')}",
        f"--log-file={layout.path('log', 'munged.log')}",
        f"--seed-file={layout.path('run', 'munged.seed')}",
    )


def start_slurmctld(layout: Layout) -> None:
    """Start the controller."""
    _launch(layout, "slurmctld")


def start_slurmd(layout: Layout, name: str) -> None:
    """Start the daemon of node `name`, under its own host name if set."""
    step = str(layout.path("bin", "slurmstepd"))
    words = ["slurmd", "-d", step, "-N", name]
    if layout.own_names:
        words = [
            "in-node",
            name,
            str(layout.path("bin", "slurmd")),
            *words[1:],
        ]
    _launch(layout, *words)


def _launch(layout: Layout, program: str, *arguments: str) -> None:
    variables = environment(Path(layout.base))
    variables.pop("CUDA_VISIBLE_DEVICES", None)
    with layout.path("log", "start.log").open("a") as log:
        done = subprocess.run(
            [str(layout.path("bin", program)), *arguments],
            env=variables,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=False,
        )
    if done.returncode != 0:
        raise UserError(
            f"{program} did not start ({last_words(layout)}): look into "
            f"{layout.path('log')}"
        )


def last_words(layout: Layout) -> str:
    """Return the last error that a daemon of the cluster logged."""
    logs = sorted(
        layout.path("log").glob("*.log"), key=lambda p: p.stat().st_mtime
    )
    for log in reversed(logs):
        lines = log.read_text(errors="replace").splitlines()
        errors = [
            x for x in lines if "error" in x.lower() and "pmix" not in x
        ]
        if errors:
            return f"{log.name}: {errors[-1].strip()}"
    return "no daemon logged an error"


def wait_until_idle(layout: Layout, report: Callable[[str], None]) -> None:
    """Wait until every node is idle.

    Raises:
        UserError: one is not, `UP_TIMEOUT_S` seconds later.
    """
    began = time.monotonic()
    idle: set[str] = set()
    while (waited := time.monotonic() - began) < UP_TIMEOUT_S:
        idle = idle_nodes(Path(layout.base))
        if idle == set(layout.names):
            return
        controller = "slurmctld" in state.alive(layout)
        if not controller and waited > CONTROLLER_TIMEOUT_S:
            break
        report(f"waiting for nodes: {len(idle)} of {len(layout.names)}")
        time.sleep(0.1)
    late = ", ".join(sorted(set(layout.names) - idle))
    raise UserError(
        f"{late} did not come up within {waited:.0f} s "
        f"({last_words(layout)}): look into {layout.path('log')}"
    )


def idle_nodes(base: Path) -> set[str]:
    """Return the names of the idle nodes."""
    command = ["sinfo", "--noheader", "--states=idle", "-N", "-o", "%N"]
    return set(ask(base, command).split())


def ask(base: Path, command: list[str]) -> str:
    """Return the output of a Slurm command, empty if it fails."""
    try:
        return answer(base, command)
    except UserError:
        return ""


def answer(base: Path, command: list[str]) -> str:
    """Return the output of a Slurm command.

    Raises:
        UserError: it fails, or the daemons do not answer it in time.
    """
    try:
        done = subprocess.run(
            [str(base / "bin" / command[0]), *command[1:]],
            env=environment(base),
            capture_output=True,
            text=True,
            timeout=ANSWER_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        why = f"no answer in {ANSWER_TIMEOUT_S} s"
    else:
        if done.returncode == 0:
            return done.stdout
        why = (done.stderr.strip().splitlines() or ["no message"])[-1]
    raise UserError(
        f"munged or slurmctld does not serve {command[0]} ({why}): end the "
        "cluster with `workshop cluster stop` and start it again"
    )


def lost_nodes(base: Path) -> str:
    """Return which nodes the controller has lost, in words, or nothing.

    A node that somebody drained is not lost.

    Raises:
        UserError: the controller does not answer.
    """
    command = ["sinfo", "--noheader", "-N", "-o", "%N %T"]
    states = [line.split() for line in answer(base, command).splitlines()]
    lost = [
        f"{name} is {state}"
        for name, state in sorted(map(tuple, states))
        if state.endswith("*") or state.startswith(LOST)
    ]
    return ", ".join(lost)


def end_jobs(base: Path) -> None:
    """Kill every job and wait until its processes are gone."""
    jobs = set(ask(base, ["squeue", "--noheader", "-o", "%A"]).split())
    if not jobs:
        return
    # KILL at once: torchrun takes its time over TERM.
    ask(base, ["scancel", "--full", "--signal=KILL", *sorted(jobs)])
    ask(base, ["scancel", *sorted(jobs)])
    ends = time.monotonic() + JOBS_END_TIMEOUT_S
    while time.monotonic() < ends:
        if not ask(base, ["squeue", "--noheader"]).strip():
            return
        time.sleep(0.1)


def end(layout: Layout, *programs: str) -> None:
    """Ask the daemons of `programs` to end and wait until they have."""
    pids = [
        state.daemon_pid(pid_file, program)
        for program, pid_file in layout.daemons().values()
        if program in programs
    ]
    strays.end([psutil.Process(pid) for pid in pids if pid])
