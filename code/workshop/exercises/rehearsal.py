"""A rehearsal of a Slurm command or script: two nodes that are not there.

bash really runs the text.  `srun` starts a process for each task with the
variables that Slurm would set, `hostname` and `scontrol show hostnames`
name the nodes, and `torchrun` only writes down how it was called.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

NODES = ("node1", "node2")
GPUS = 2
TIMEOUT_S = 30
PLAYED = "srun hostname uname scontrol torchrun python python3".split()
PATIENCE_S = 5
ALONE = "torchrun: the launcher of the other node did not come"
LABEL = ("-l", "--label")
FLAGS = frozenset(
    "-l --label -K --kill-on-bad-exit -O --overcommit --overlap --exact "
    "--exclusive --pty -u --unbuffered -Q --quiet -s --oversubscribe".split()
)
SHORT = {"-N": "nodes", "-n": "ntasks", "-w": "nodelist", "-c": "cpus"}
LAUNCHERS = ("torch.distributed.run", "workshop.job.torchrun")


@dataclass(frozen=True)
class Rehearsal:
    """What a text printed and how it called torchrun.

    `launches` has, for each launcher, its node's name and its arguments.
    """

    output: str
    error: str
    exit_code: int
    launches: list[tuple[str, list[str]]] = field(default_factory=list)


def rehearse(text: str, job_id: int | None = None) -> Rehearsal:
    """Run a line or script of bash among the stand-ins.

    Args:
        job_id: run it as the batch script of that job, on the first node,
            with the shape that its #SBATCH lines ask for.

    Raises:
        OSError: there is no bash.
    """
    with tempfile.TemporaryDirectory() as place:
        for name in PLAYED:
            program = Path(place) / name
            program.write_text(
                f'#!/bin/sh\nexec "{sys.executable}" -S "{__file__}" '
                f'{name} "$@"\n'
            )
            program.chmod(0o755)
        kept = {k: v for k, v in os.environ.items() if k[:5] != "SLURM"}
        calls = Path(place) / "calls"
        calls.touch()
        env = {
            **kept,
            "PATH": f"{place}:{os.environ.get('PATH', '')}",
            "REHEARSAL": str(calls),
        }
        if job_id is not None:
            env |= _job(text, job_id)
        try:
            done = subprocess.run(
                ["bash", "-c", text],
                env=env,
                cwd=place,
                check=False,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            return Rehearsal("", f"it was not over after {TIMEOUT_S} s", 124)
        lines = calls.read_text().splitlines()
        launches = [(node, words) for node, words in map(json.loads, lines)]
    return Rehearsal(done.stdout, done.stderr, done.returncode, launches)


def _job(script: str, job_id: int) -> dict[str, str]:
    """Return the variables of a batch script's own process."""
    lines = re.findall(r"^#SBATCH\s+(.*)$", script, re.MULTILINE)
    asked, _ = options(" ".join(lines).split())
    nodes = int(asked.get("nodes", "1").split("-")[0])
    tasks = nodes * int(asked.get("ntasks-per-node", "1"))
    return {
        "SLURM_JOB_ID": str(job_id),
        "SLURM_JOBID": str(job_id),
        "SLURM_NTASKS": asked.get("ntasks", str(tasks)),
        "SLURM_GPUS_ON_NODE": str(GPUS),
        **_place(nodes, 0, 0, 0),
    }


def _place(nodes: int, node: int, rank: int, local: int) -> dict[str, str]:
    names = NODES[:nodes]
    return {
        "SLURM_NNODES": str(nodes),
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_JOB_NODELIST": ",".join(names),
        "SLURM_NODELIST": ",".join(names),
        "SLURM_NODEID": str(node),
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(local),
        "SLURMD_NODENAME": NODES[node],
    }


def options(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Split options of Slurm from the command that follows them."""
    asked: dict[str, str] = {}
    words = list(words)
    while words and words[0].startswith("-"):
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if name in FLAGS:
            if name in LABEL:
                asked["label"] = ""
            continue
        if word[:2] in SHORT and word[2:3] != "":
            name, value = word[:2], word[2:].removeprefix("=")
        elif not equals:
            value = words.pop(0) if words else ""
        asked[SHORT.get(name, name.removeprefix("--"))] = value
    return asked, words


def tasks_of(asked: dict[str, str]) -> list[int]:
    """Return how many tasks each node runs, [] if there is no such node."""
    per_node = int(asked.get("ntasks-per-node") or 0)
    inside = os.environ.get("SLURM_NNODES", "1")
    nodes = int(asked.get("nodes", inside).split("-")[0])
    given = asked.get("ntasks")
    if given is None and "nodes" not in asked and not per_node:
        given = os.environ.get("SLURM_NTASKS")
    total = int(given or nodes * (per_node or 1))
    if "nodes" not in asked and "SLURM_NNODES" not in os.environ and per_node:
        nodes = -(-total // per_node)
    nodes = min(nodes, total)
    if not 1 <= nodes <= len(NODES):
        return []
    more = total % nodes
    return [total // nodes + (node < more) for node in range(nodes)]


def srun(words: list[str]) -> int:
    """Start every task in turn; return the largest exit code.

    The last one starts first, for tasks come in no order that one may
    trust.
    """
    asked, command = options(words)
    counts = tasks_of(asked)
    names = [n for n in asked.get("nodelist", "").split(",") if n]
    if not counts or not set(names) <= set(NODES):
        why = "srun: error: Node count specification invalid"
        print(why, file=sys.stderr)
        return 1
    tasks = [(n, k) for n, count in enumerate(counts) for k in range(count)]
    codes = []
    for rank, (node, local) in reversed(list(enumerate(tasks))):
        env = os.environ | _place(len(counts), node, rank, local)
        if names:
            env["SLURMD_NODENAME"] = names[node % len(names)]
        env |= {"SLURM_NTASKS": str(len(tasks))}
        env |= {"SLURM_GPUS_ON_NODE": str(GPUS)}
        env.setdefault("SLURM_JOB_ID", "1")
        done = subprocess.run(
            command, env=env, check=False, text=True, stdout=subprocess.PIPE
        )
        for line in done.stdout.splitlines(keepends=True):
            print(f"{rank}: {line}" if "label" in asked else line, end="")
        codes.append(done.returncode)
    return max(codes)


def play(name: str, words: list[str]) -> int:
    """Be the program `name`."""
    here = os.environ.get("SLURMD_NODENAME", NODES[0])
    if name == "srun":
        return srun(words)
    if name == "hostname" or (name, words) == ("uname", ["-n"]):
        print(here)
        return 0
    if name == "scontrol":
        if words[:2] != ["show", "hostnames"]:
            print("scontrol: only `show hostnames` here", file=sys.stderr)
            return 1
        listed = os.environ.get("SLURM_JOB_NODELIST", ",".join(NODES))
        print(listed.replace(",", "\n"))
        return 0
    if name == "uname":
        os.execv("/usr/bin/uname", [name, *words])
    if name != "torchrun":
        if words[0] != "-m" or words[1] not in LAUNCHERS:
            os.execv(sys.executable, [sys.executable, *words])
        words = words[2:]
    with open(os.environ["REHEARSAL"], "a") as calls:
        calls.write(json.dumps([here, words]) + "\n")
    # A step of one node: unless another runs beside it, both wait for ever.
    if os.environ.get("SLURM_NNODES") == "1" and not _another_comes(here):
        print(ALONE, file=sys.stderr)
        return 1
    return 0


def _another_comes(here: str) -> bool:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        lines = Path(os.environ["REHEARSAL"]).read_text().splitlines()
        if any(json.loads(line)[0] != here for line in lines):
            return True
        time.sleep(0.05)
    return False


if __name__ == "__main__":
    sys.exit(play(sys.argv[1], sys.argv[2:]))
