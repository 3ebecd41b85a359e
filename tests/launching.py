"""Programs that tests start as a reader would: on CPUs, a thread a rank."""

import os
import subprocess
import sys
from pathlib import Path

LIMIT = 120
"""Seconds that a program may take."""


def program(name: str) -> Path:
    """Return a program of this environment, such as torchrun."""
    return Path(sys.executable).with_name(name)


def environment(folder: Path | None = None, **variables: str) -> dict:
    """Return the variables of a launch; metrics and artifacts to `folder`."""
    found = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    if folder:
        found["WORKSHOP_METRICS"] = str(folder / "metrics.jsonl")
        found["WORKSHOP_ARTIFACTS"] = str(folder)
    return {**found, **variables}


def launch(
    *command: object, folder: Path | None = None, **variables: str
) -> subprocess.CompletedProcess:
    """Run a program of this environment; return its end and its text."""
    name, *arguments = command
    return subprocess.run(
        [program(str(name)), *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env=environment(folder, **variables),
    )
