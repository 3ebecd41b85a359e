"""Checks of what a reader writes for Slurm: a command, a batch script.

The command runs on the cluster where there is one, and is rehearsed where
there is none; any text that does the job is right.
"""

import shutil
import subprocess

from workshop.exercises.rehearsal import ALONE, GPUS, NODES, rehearse
from workshop.exercises.verdict import MISSING, RIGHT
from workshop.slurm import local as cluster

TIMEOUT_S = 60
NO_BASH = "This check needs bash: run it on Linux, macOS or in WSL."
HERE = ("localhost", "127.0.0.1", "::1", "0.0.0.0")


def check_node_numbers(answer: str | None) -> str:
    """Judge a command that prints `0 NAME` and `1 NAME` of two nodes."""
    if answer is None:
        return MISSING
    if not isinstance(answer, str):
        return "Not yet: give the command as a text, in quotes."
    if not shutil.which("bash"):
        return NO_BASH
    output, names = _run(answer)
    lines = [line.split() for line in output.splitlines() if line.strip()]
    if any(len(line) != 2 or not line[0].isdigit() for line in lines):
        return f"Not yet: a line is a number and a name, and it said {output}"
    if output and not lines:
        return (
            "Not yet: the lines are empty. "
            "Which shell replaced the variables, yours or the task's?"
        )
    if len(lines) != 2:
        return (
            f"Not yet: {len(lines)} lines came back. "
            "How many tasks ran, and on how many nodes?"
        )
    seen = {name.split(".")[0] for _, name in lines}
    if len(seen) == 1:
        return f"Not yet: both lines come from {seen.pop()}."
    if not seen <= names:
        return "Not yet: these are not the names of the cluster's nodes."
    numbers = [int(number) for number, _ in lines]
    if sorted(numbers) != [0, 1]:
        return (
            "Not yet: the nodes do not have numbers of their own. "
            "Which shell replaced the variable, yours or the task's?"
        )
    return RIGHT if numbers == [0, 1] else "Nearly: the lines are unsorted."


def _run(command: str) -> tuple[str, set[str]]:
    """Return what a command printed and the names of the nodes."""
    if not cluster.available():
        rehearsed = rehearse(command)
        return rehearsed.output + rehearsed.error, set(NODES)
    listed = _shell("sinfo --noheader --Node --format=%N")
    return _shell(command), set(listed.split())


def _shell(command: str) -> str:
    try:
        done = subprocess.run(
            ["bash", "-c", command],
            env=cluster.environment(),
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return f"nothing for {TIMEOUT_S} s: does `squeue` show room?"
    return done.stdout


def check_launcher(answer: str | None) -> str:
    """Judge a batch script that starts torchrun on two nodes.

    It is rehearsed as two jobs; nothing is submitted.
    """
    if answer is None:
        return MISSING
    if not shutil.which("bash"):
        return NO_BASH
    ports = []
    for job_id in (7, 8):
        rehearsed = rehearse(answer, job_id)
        alone = ALONE in rehearsed.error
        if rehearsed.exit_code and not alone:
            said = rehearsed.error.strip().splitlines() or ["nothing"]
            return f"Not yet: the script failed and said: {said[-1]}"
        calls = [(n, launch_options(w)) for n, w in rehearsed.launches]
        if hint := _first_hint(calls):
            return f"Not yet: {hint}"
        if alone:
            return (
                "Not yet: a launcher starts when the one before has ended, "
                "and that one waits for it. Start both at the same time."
            )
        ports.append(_meeting(calls[0][1])[1])
    if ports[0] == ports[1]:
        return (
            "Not yet: two jobs that share a first node would meet at the "
            "same port. What do two jobs never share?"
        )
    return RIGHT


def launch_options(words: list[str]) -> dict[str, str]:
    """Return torchrun's own options, up to the program that it starts."""
    asked: dict[str, str] = {}
    words = list(words)
    while words and words[0].startswith("-"):
        name, equals, value = words.pop(0).partition("=")
        name = name.lstrip("-").replace("_", "-")
        if name in ("m", "module", "no-python"):
            break
        if name in ("standalone", "run-path"):
            value = "yes"
        elif not equals:
            value = words.pop(0) if words else ""
        asked[name] = value
    return asked


def _meeting(asked: dict[str, str]) -> tuple[str, str]:
    """Return the address and the port at which a launcher meets others."""
    address, _, port = asked.get("rdzv-endpoint", "").partition(":")
    return (
        address or asked.get("master-addr", "127.0.0.1"),
        port or asked.get("master-port", "29500"),
    )


def _first_hint(calls: list[tuple[str, dict[str, str]]]) -> str | None:
    """Return what is wrong with one job's launchers, if anything is."""
    started = sorted(node for node, _ in calls)
    if not started:
        return "no torchrun starts at all."
    if started != sorted(set(started)):
        return (
            "a node starts several launchers, and each would take all of "
            "its GPUs. How many tasks does srun start there?"
        )
    if started != sorted(NODES):
        return "one node of the job starts no launcher."
    everyone = [asked for _, asked in calls]
    if any("standalone" in asked for asked in everyone):
        return "a standalone launcher never looks for another node."
    places = [_meeting(asked) for asked in everyone]
    if any(address in HERE for address, _ in places):
        return (
            "on the second node the address that they meet at is the "
            "second node itself, so each waits for the other for ever."
        )
    if places[0] != places[1] or places[0][0] not in NODES:
        return "the launchers do not all look at one node of the job."
    if not places[0][1].isdigit() or not 1024 <= int(places[0][1]) < 65536:
        return "a port is a number from 1024 to 65535."
    if any(a.get("nnodes", "1").split(":")[-1] != "2" for a in everyone):
        return "a launcher does not know how many nodes there are."
    if any(
        asked.get("nproc-per-node", "1") not in (str(GPUS), "gpu", "auto")
        for asked in everyone
    ):
        return "a node has another number of ranks than of GPUs."
    return _rank_hint(calls, places[0][0])


def _rank_hint(
    calls: list[tuple[str, dict[str, str]]], address: str
) -> str | None:
    if all(asked.get("rdzv-backend") == "c10d" for _, asked in calls):
        return None  # it numbers the nodes by itself
    ranks = {node: asked.get("node-rank", "0") for node, asked in calls}
    if sorted(ranks.values()) != ["0", "1"]:
        return (
            "both launchers believe to be the same node. On which machine "
            "was the variable replaced, and by which shell?"
        )
    if ranks[address] != "0":
        return "the first launcher runs elsewhere than where they meet."
    return None
