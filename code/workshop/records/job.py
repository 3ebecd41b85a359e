"""The job of an experiment: run its repeats, then write its record.

python -m workshop.records.job lab1/gpt2-small-2gpu [--small] [--out FOLDER]
"""

import argparse
import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from workshop import loaded, paths
from workshop.doctor import host_gpus
from workshop.errors import UserError, one_sentence
from workshop.records import (
    execute,
    experiments,
    files,
    fingerprint,
    launch,
    node,
    record,
)
from workshop.records.experiments import Experiment, Size
from workshop.records.files import digest, sha256, short
from workshop.records.log import Log
from workshop.records.repository import commit
from workshop.records.schema import COMPLETED, VERSION
from workshop.records.summary import summarise

SCRIPT = "slurm/experiment.sbatch"
TREES = ("code", "slurm")
# The job's own lines in a log: a repeat's command, and how it ended.
MARK = re.compile(r"\[repeat \d+\] (\$|exit code) ")


class Stopped(BaseException):
    """Slurm or a person told the job to end."""


def run(experiment: Experiment, small: bool, out: Path) -> tuple[Path, dict]:
    """Run an experiment here and return its record's folder and the record.

    Inside a Slurm job the record names the job; outside, it says that
    there was none. Raises `UserError` before anything has run, on bad
    input; what goes wrong afterwards is recorded.
    """
    root = paths.root()
    size = experiment.size(small)
    if "SLURM_JOB_ID" not in os.environ:
        size = size.on_one_node()
    before = files.tree_digests(root, TREES)
    git = commit(root, required="SLURM_JOB_ID" in os.environ)
    allocation = _allocation()
    argv = launch.command(experiment, size, allocation)
    started, limit = time.monotonic(), time_limit(experiment)
    clock = _now()
    folder = record.staging(out, _key(experiment))
    log = Log(folder / "log.txt", root)
    slurm = slurm_facts(size)
    log(f"run {experiment.name}, {'small' if small else 'full'} size")
    if slurm:
        log(f"Slurm job {slurm['job_id']} on {slurm['node_list']}")
    nodes: list[dict] = []
    repeats: list[dict] = []
    status, reason, code = COMPLETED, "", 0
    try:
        nodes = _nodes(size, root, folder / ".nodes")
        _require_gpus(experiment, nodes, small)
        deadline = started + limit
        for repeat in range(1 if small else experiment.repeats):
            code = _repeat(argv, root, folder, repeat, deadline, log, repeats)
            if code:
                status = "failed"
                cause = f", {log.cause}" if log.cause else ""
                reason = f"repeat {repeat} ended with exit code {code}{cause}"
                break
        summarise(record.metrics_files(folder), VERSION)
        now = files.tree_digests(root, TREES)
        if edited := fingerprint.changed(before, now):
            raise UserError(f"its sources changed while it ran ({edited[0]})")
    except execute.DeadlineError:
        status, code = "timeout", 124
        reason = f"it was still running after {limit} s"
    except (Stopped, KeyboardInterrupt):
        status, reason, code = "cancelled", "it was told to stop", 130
    except UserError as error:
        status, reason, code = "failed", str(error), 1
    except Exception as error:  # noqa: BLE001 - it belongs in the record
        log(traceback.format_exc().rstrip())
        status, code = "failed", 1
        reason = f"{type(error).__name__}: {log.clean(str(error))}"
    with _undisturbed():
        noted = fingerprint.measured(loaded.read(folder / ".loaded"))
        names = fingerprint.listed(experiment, root) | noted
        sources = fingerprint.hashes(names, root)
        sources |= fingerprint.definition(experiment)
        nodes = nodes or [node.describe()]
        if reason:
            log(f"{status}: {reason}")
        facts = {
            "name": experiment.name,
            "status": status,
            "reason": reason,
            "experiment": experiment.model_dump(mode="json"),
            "size": "small" if small else "full",
            "command": shlex.join(argv),
            "script": {"path": SCRIPT, "sha256": _script_hash(root)},
            "started": clock,
            "ended": _now(),
            "exit_code": code,
            "slurm": slurm,
            "git": git,
            "sources": {"fingerprint": digest(sources), "files": sources},
            "repeats": repeats,
        }
        body = record.complete(facts, nodes, folder, log)
        return record.place(folder, out, body), body


def time_limit(experiment: Experiment) -> int:
    """Return the seconds that the job may take, all repeats together.

    `WORKSHOP_TIMEOUT` lowers the experiment's own limit.
    """
    given = os.environ.get("WORKSHOP_TIMEOUT")
    if not given:
        return experiment.timeout
    if not given.isascii() or not given.isdigit() or len(given) > 9:
        raise UserError(
            f"WORKSHOP_TIMEOUT is {short(given)}: give whole seconds"
        )
    return min(experiment.timeout, int(given))


def slurm_facts(size: Size) -> dict | None:
    """Return what Slurm says of this job, None outside one."""
    env = os.environ
    if "SLURM_JOB_ID" not in env:
        return None
    nodes = int(env.get("SLURM_JOB_NUM_NODES", size.nodes))
    each = int(env.get("SLURM_GPUS_ON_NODE", 0))
    return {
        "job_id": int(env["SLURM_JOB_ID"]),
        "partition": env.get("SLURM_JOB_PARTITION", ""),
        "node_list": env.get("SLURM_JOB_NODELIST", ""),
        "nodes": nodes,
        "tasks": int(env.get("SLURM_NTASKS", nodes)),
        "gpus": nodes * each,
    }


def _repeat(argv, root, folder, repeat, deadline, log, repeats) -> int:
    """Run one repeat, add it to `repeats`, and return its exit code."""
    env = launch.variables(root, folder, repeat)
    log(f"[repeat {repeat}] $ {shlex.join(argv)}")
    begun = time.monotonic()
    attempt = {"repeat": repeat, "exit_code": -1}
    repeats.append(attempt)
    command = launch.executable(argv, env["PATH"])
    try:
        code = execute.stream(command, env, root, deadline, log)
    except OSError as error:
        raise UserError(f"{command[0]} does not start: {error}") from None
    finally:
        attempt["seconds"] = round(time.monotonic() - begun, 2)
    attempt["exit_code"] = code
    log(f"[repeat {repeat}] exit code {code}")
    wrote = (folder / f"metrics.{repeat}.jsonl").is_file()
    if not code and not wrote and not any((folder / "artifacts").iterdir()):
        raise UserError(f"repeat {repeat} wrote no metrics and no artifact")
    return code


def _allocation() -> launch.Allocation | None:
    """Return the nodes of this job, None outside Slurm."""
    if not {"SLURM_JOB_ID", "SLURM_JOB_NODELIST"} <= os.environ.keys():
        return None
    names = _output(
        ["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]]
    ).split()
    port = 20000 + int(os.environ["SLURM_JOB_ID"]) % 10000
    return launch.Allocation(len(names), names[0], port)


def _nodes(size: Size, root: Path, folder: Path) -> list[dict]:
    """Describe every node of the job, the first one first.

    Each writes a file of its own into `folder`: what several nodes print
    arrives mixed up.

    Where there are GPUs this takes a process of its own, since looking at
    them can leave memory taken on them for as long as the process lives.
    """
    if size.nodes == 1 and not host_gpus():
        return [node.describe()]
    command = [sys.executable, "-m", "workshop.records.node", str(folder)]
    if size.nodes > 1:
        tasks = ["--nodes", str(size.nodes), "--ntasks", str(size.nodes)]
        tasks += ["--ntasks-per-node", "1"]
        command = ["srun", *tasks, *command]
    _output(command, launch.path_variables(root))
    described = [json.loads(f.read_text()) for f in folder.glob("*.json")]
    if len(described) != size.nodes:
        raise UserError(
            f"{len(described)} of {size.nodes} nodes described themselves: "
            "run it again, and look at the nodes if it happens again"
        )
    return sorted(described, key=lambda each: each["node"])


def _require_gpus(
    experiment: Experiment, nodes: list[dict], small: bool
) -> None:
    have = sum(node.gpus([node.host(each) for each in nodes]).values())
    if not small and have < experiment.needs_gpus:
        raise UserError(
            f"it needs {experiment.needs_gpus} GPUs and this job sees "
            f"{have}: submit the small size, or on more GPUs"
        )


def _output(command: list[str], env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, env=env, check=False, capture_output=True, text=True
    )
    if done.returncode:
        detail = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise UserError(f"{command[0]} failed: {detail[0]}")
    return done.stdout


def _key(experiment: Experiment) -> str:
    job = os.environ.get("SLURM_JOB_ID")
    if job:
        return f"job-{job}"
    return f"{experiment.name.replace('/', '-')}-{os.getpid()}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _stop(signum: int, frame: object) -> None:
    raise Stopped


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Let no signal interrupt the writing of a record."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _script_hash(root: Path) -> str:
    """Hash the script as Slurm runs it, which is a copy."""
    return sha256(Path(os.environ.get("WORKSHOP_SCRIPT", root / SCRIPT)))


@one_sentence
def main() -> None:
    """Entry point of the job script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="the experiment's name")
    parser.add_argument("--small", action="store_true", help="the CPU size")
    parser.add_argument("--out", type=Path, help="where records lie")
    arguments = parser.parse_args()
    chosen = experiments.select([arguments.name], experiments.read())[0]
    signal.signal(signal.SIGTERM, _stop)
    out = arguments.out or record.destination(arguments.small)
    _, body = run(chosen, arguments.small, out.resolve())
    print(f"{body['name']}: {body['status']}")
    sys.exit(body["exit_code"])


if __name__ == "__main__":
    main()
