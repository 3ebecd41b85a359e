"""`sh`: a Slurm command in a notebook, for real or from its record."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from workshop.errors import UserError
from workshop.paths import root
from workshop.slurm import local as cluster
from workshop.slurm import profile

RECORD = "lab1/slurm-session"
END_TIMEOUT_S = 10

# The pipe to its stdin closes however the kernel ends, kill -9 included.
WATCHER = """
read -r group || exit
read -r over && exit
kill -s TERM -- "-$group"
sleep "$1"
kill -s KILL -- "-$group"
"""


def sh(command: str, check: bool = True, timeout: float = 120) -> None:
    """Run a shell command where Slurm's commands work; print its output.

    It runs in the repository's root, against the site's Slurm or the
    local cluster.  Where Slurm cannot exist the output comes from the
    recorded session, and one line says so.

    Args:
        command: a line for bash.
        check: raise if it exits with another code than 0.
        timeout: seconds after which it is ended.

    Raises:
        UserError: it failed or ran too long, Slurm could run here and
            does not, or the recorded session has no such command.
    """
    if not cluster.available() and (why := cluster.possible()):
        code = _replay(command, why)
    else:
        code = _run(command, timeout)
    if check and code != 0:
        raise UserError(
            f"`{command}` exited with {code}: its output above says why; "
            "pass check=False to go on"
        )


def capture(command: str, timeout: float) -> tuple[str, int]:
    """Run a line of bash with Slurm's commands, return output and code.

    Output and errors come as one text, in the order of a terminal.

    Raises:
        UserError: no Slurm here, or not over after `timeout` seconds.
    """
    variables = cluster.environment() | _site_variables()
    with _watcher() as watcher:
        process = subprocess.Popen(
            ["bash", "-c", command],
            env=variables,
            cwd=root(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        watcher.write(f"{process.pid}\n")
        watcher.flush()
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise UserError(
                f"`{command}` was not over after {timeout:g} s: is the "
                "cluster busy? `squeue` tells; or pass a longer timeout"
            ) from None
        finally:
            if process.poll() is None:
                _end(process)
    return output, process.returncode


@contextmanager
def _watcher() -> Iterator[TextIO]:
    """Have a process group ended if the kernel ends in the block.

    It yields where to write the group's number.  Nobody reads its output
    without a kernel, and what waits for a job of a cluster that is gone
    would wait for ever.
    """
    watcher = subprocess.Popen(
        ["sh", "-c", WATCHER, "sh", str(END_TIMEOUT_S)],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        yield watcher.stdin
    finally:
        watcher.communicate("over\n")


def _end(process: subprocess.Popen[str]) -> None:
    """End the command's whole process group, srun and its job with it."""
    # Not SIGINT: srun wants two of them within a second.
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _run(command: str, timeout: float) -> int:
    output, code = capture(command, timeout)
    print(output, end="")
    return code


def _site_variables() -> dict[str, str]:
    """Return the chosen profile's partition and account as variables."""
    if not os.environ.get("WORKSHOP_PROFILE"):
        return {}
    site = profile.load()
    chosen = {"PARTITION": site.partition, "ACCOUNT": site.account}
    return {
        f"{program}_{name}": value
        for name, value in chosen.items()
        for program in ("SBATCH", "SALLOC", "SLURM")
        if value
    }


def _replay(command: str, why: str) -> int:
    from workshop.records.load import load

    run = load(RECORD)
    path = run.folder / "artifacts" / "session.json"
    for entry in json.loads(path.read_text()):
        if entry["command"] == command:
            print(f"[{why}: replayed from {run.provenance()}]")
            print(entry["output"], end="")
            return entry["exit_code"]
    raise UserError(
        f"the recorded Slurm session has no command `{command}` and no "
        "Slurm runs here: record it with `workshop runs submit "
        f"{RECORD}`, or run the cell on Linux"
    )
