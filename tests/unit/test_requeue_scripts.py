"""A job that saved ends with 75, whether or not Slurm queues it again."""

import os
import subprocess
from pathlib import Path

import pytest

from workshop.paths import root

SCRIPTS = ("torchrun_node", "torchrun_nodes")


def stub(folder: Path, name: str, *lines: str) -> None:
    """Lay a program that notes its arguments and does as the lines say."""
    program = folder / name
    noted = f'echo "{name} $*" >> "{folder}/called"'
    program.write_text("\n".join(["#!/bin/bash", noted, *lines]) + "\n")
    program.chmod(0o755)


def end_of(script: str, folder: Path, code: int, requeue: int) -> tuple:
    """Run a script whose ranks end with `code`; return its end and calls.

    `requeue` is the exit code of `scontrol requeue`.
    """
    stub(folder, "srun", f"exit {code}")
    stub(
        folder,
        "scontrol",
        f'[ "$1" != requeue ] || exit {requeue}',
        "echo node1",
    )
    stub(folder, "sleep")
    (folder / "slurm").mkdir()
    (folder / "slurm" / "setup.sh").write_text(":\n")
    done = subprocess.run(
        ["bash", root() / "slurm" / f"{script}.sbatch"],
        env={
            **os.environ,
            "PATH": f"{folder}:{os.environ['PATH']}",
            "WORKSHOP_ROOT": str(folder),
            "SLURM_JOB_ID": "4711",
            "SLURM_NNODES": "1",
            "SLURM_JOB_NODELIST": "node1",
        },
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    return done.returncode, (folder / "called").read_text().splitlines()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_refused_requeue_leaves_the_code_and_waits_for_nothing(
    script: str, tmp_path: Path
) -> None:
    code, called = end_of(script, tmp_path, 75, requeue=1)
    assert code == 75
    assert called[-1] == "scontrol requeue 4711"


@pytest.mark.parametrize("script", SCRIPTS)
def test_after_a_requeue_it_waits_for_slurm_to_end_it(
    script: str, tmp_path: Path
) -> None:
    code, called = end_of(script, tmp_path, 75, requeue=0)
    assert code == 75
    assert called[-2:] == ["scontrol requeue 4711", "sleep 60"]


@pytest.mark.parametrize("code", [0, 1, 2, 137])
@pytest.mark.parametrize("script", SCRIPTS)
def test_any_other_end_is_final(
    script: str, code: int, tmp_path: Path
) -> None:
    ended, called = end_of(script, tmp_path, code, requeue=0)
    assert ended == code
    assert not any("requeue" in line for line in called)
