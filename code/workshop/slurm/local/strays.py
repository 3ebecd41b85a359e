"""Processes that outlive their job, and how they are found and ended.

Without cgroups Slurm knows a job by its process tree.  What begins a
session of its own and loses its parent has left the tree, but still has the
variables that its job gave it, and is still in the namespaces of its node.
"""

import os
import signal
import time
from pathlib import Path

import psutil

from workshop.slurm import state
from workshop.slurm.state import Layout

END_TIMEOUT_S = 5

# Slurm runs it on a node after a job has ended there, before it says so.
EPILOG = """#!/bin/sh
PATH=/usr/bin:/bin
left=$(echo /proc/[0-9]*/environ)
for of_the_job in "SLURM_JOB_ID=$SLURM_JOB_ID" \\
    "SLURMD_NODENAME=$SLURMD_NODENAME" "SLURM_CONF={base}/slurm.conf"; do
  left=$(grep -lzsxFe "$of_the_job" /dev/null $left)
done
for file in $left; do
  process=${{file#/proc/}}
  process=${{process%/environ}}
  if [ "$process" != $$ ] && [ -O "/proc/$process" ]; then
    kill -KILL "$process" 2>/dev/null
  fi
done
exit 0
"""


def namespaces(layout: Layout) -> set[int]:
    """Return the numbers of the host-name namespaces that nodes live in.

    Nodes without one, or whose daemon is dead, have none here.
    """
    pids = [
        state.daemon_pid(pid_file, program)
        for program, pid_file in layout.daemons().values()
        if program == "slurmd"
    ]
    numbers = {_namespace(pid) for pid in pids if pid}
    return numbers - {None, _namespace(os.getpid())}


def end_all(layout: Layout, nodes: set[int]) -> None:
    """Kill what the jobs of a cluster left behind.

    Args:
        layout: the cluster, whose daemons have ended.
        nodes: the `namespaces` of its nodes when they still ran.
    """
    conf = str(layout.path("slurm.conf"))
    spared = {os.getpid(), *(p.pid for p in psutil.Process().parents())}
    left = []
    for process in psutil.process_iter():
        try:
            if process.uids().real != os.getuid() or process.pid in spared:
                continue
            inside = _namespace(process.pid) in nodes
            variables = process.environ()
            step = any("slurmstepd" in word for word in process.cmdline())
        except psutil.Error:
            continue
        ours = variables.get("SLURM_CONF") == conf
        if inside or (ours and (step or "SLURM_JOB_ID" in variables)):
            left.append(process)
    end(left, patience=0)


def end(
    processes: list[psutil.Process], patience: float = END_TIMEOUT_S
) -> None:
    """End processes, by force those that take longer than `patience` s."""
    asked = time.monotonic()
    gentle = signal.SIGTERM if patience else signal.SIGKILL
    left = [each for each in processes if _signal(each, gentle)]
    while left:
        time.sleep(0.02)
        waited = time.monotonic() - asked
        number = signal.SIGKILL if waited > patience else 0
        left = [each for each in left if _signal(each, number)]


def _namespace(pid: int) -> int | None:
    try:
        return Path(f"/proc/{pid}/ns/uts").stat().st_ino
    except OSError:
        return None


def _signal(process: psutil.Process, number: int) -> bool:
    """Send a signal (0: none), say whether there was someone to get it."""
    try:
        # One that ended and that nobody reaped yet is gone for us.
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return False
    return True
