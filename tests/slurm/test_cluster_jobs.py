"""Submitting, waiting and cancelling, on a real cluster."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workshop import paths
from workshop.errors import UserError
from workshop.slurm import jobs
from workshop.slurm import local as cluster

pytestmark = pytest.mark.usefixtures("slurm_cluster")


@pytest.fixture
def script(tmp_path: Path):
    """Return a function that writes an sbatch file of the given lines."""

    def write(body: str, *options: str) -> Path:
        path = tmp_path / "job.sbatch"
        lines = [f"#SBATCH --output={tmp_path}/job.out"]
        lines += [f"#SBATCH {option}" for option in options]
        path.write_text("\n".join(["#!/bin/bash", *lines, body]) + "\n")
        return path

    return write


def wait_for(output: Path, text: str, times: int = 1) -> str:
    """Return a job's output once `text` is in it often enough."""
    ends = time.monotonic() + 120
    while time.monotonic() < ends:
        said = output.read_text() if output.exists() else ""
        if said.count(text) >= times:
            return said
        time.sleep(0.1)
    raise AssertionError(f"{output} does not say {text!r}: {said}")


def alive(marker: str) -> list[str]:
    """Return the command lines of this machine that hold `marker`."""
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if marker in command:
            commands.append(command)
    return commands


def test_states_are_reported_in_order(script, slurm_cluster) -> None:
    seen: list[str] = []
    job_id = jobs.submit(script("sleep 1"))
    job = jobs.wait(job_id, 120, lambda now: seen.append(now.state))
    assert seen[-1] == job.state == "COMPLETED"
    assert "RUNNING" in seen and job.exit_code == 0
    assert job.nodes == slurm_cluster.names[0]
    assert jobs.info(job_id)["NumNodes"] == "1"


def test_profile_reaches_the_job(script, tmp_path: Path) -> None:
    path = script('. "$WORKSHOP_SETUP"; echo "$NCCL_SOCKET_IFNAME $MINE"')
    jobs.wait(jobs.submit(path, variables={"MINE": "yes"}), 120)
    assert (tmp_path / "job.out").read_text() == "lo yes\n"


def test_failed_job_is_one_sentence(script, tmp_path: Path) -> None:
    job_id = jobs.submit(script("echo no such corpus >&2; exit 7"))
    with pytest.raises(jobs.JobEnded) as caught:
        jobs.wait(job_id, 120)
    assert caught.value.job.exit_code == 7
    message = str(caught.value)
    assert "FAILED with exit code 7 on " in message
    assert str(tmp_path / "job.out") in message
    assert "'no such corpus'" in message and "\n" not in message


def test_impatient_wait_and_cancel_are_named(script) -> None:
    job_id = jobs.submit(script("sleep 60"))
    with pytest.raises(UserError, match="still (PENDING|RUNNING) after 0 s"):
        jobs.wait(job_id, 0)
    assert jobs.cancel(job_id).state == "CANCELLED"
    with pytest.raises(jobs.JobEnded, match=f"job {job_id} was cancelled"):
        jobs.wait(job_id, 120)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--nodes=9"], "Node count specification invalid"),
        (["--partition=nowhere"], "invalid partition specified: nowhere"),
        (["--time=soon"], "Invalid --time specification"),
        (["--gpus-per-node=3"], "Requested node configuration"),
    ],
)
def test_rejection_carries_slurms_words(script, options, said) -> None:
    with pytest.raises(UserError) as caught:
        jobs.submit(script("true"), options=options)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_missing_script_and_job_are_named() -> None:
    with pytest.raises(UserError, match=r"no script .*slurm/none\.sbatch"):
        jobs.submit("slurm/none.sbatch")
    with pytest.raises(UserError, match="knows no job 99999"):
        jobs.info(99999)
    with pytest.raises(UserError, match="knows no job 99999"):
        jobs.cancel(99999)


def test_array_counts_as_one_job(script) -> None:
    path = script("exit $((SLURM_ARRAY_TASK_ID == 2))", "--array=0-3")
    job = jobs.wait(jobs.submit(path), 120, check=False)
    assert (job.state, job.exit_code) == ("FAILED", 1)
    assert len(jobs.tasks(job.job_id)) == 4


def test_cancel_ends_all_ranks(tmp_path: Path, slurm_cluster) -> None:
    marker = f"tests.slurm.all_reduce 300 {os.getpid()}"
    output = tmp_path / "ranks.out"
    job_id = jobs.submit(
        "slurm/torchrun_nodes.sbatch",
        marker.split(),
        gpus_per_node=1,
        options=[f"--output={output}"],
    )
    said = wait_for(output, "sum 3", times=2)
    assert all(f" on {name} (" in said for name in slurm_cluster.names)
    assert alive(marker)
    assert jobs.cancel(job_id).state == "CANCELLED"
    assert not alive(marker), "ranks outlive their job"


def test_cancel_ends_what_left_the_process_tree(script, tmp_path) -> None:
    mark = f"96{os.getpid()}"
    ended = jobs.submit(script(f"(setsid sleep {mark} &)"))
    jobs.wait(ended, 120)
    assert not alive(f"sleep {mark}"), "a child outlives its job"
    path = script(f"(setsid sleep {mark} &)\necho started\nsleep 300")
    job_id = jobs.submit(path)
    wait_for(tmp_path / "job.out", "started")
    assert alive(f"sleep {mark}")
    jobs.cancel(job_id)
    assert not alive(f"sleep {mark}"), "a child outlives its job"


def test_interrupted_wait_leaves_the_cluster_sane(script, tmp_path) -> None:
    path = script("echo started; sleep 300")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "workshop.cli",
            "cluster",
            "submit",
            str(path),
        ],
        env=os.environ | {"PYTHONPATH": str(paths.root() / "code")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(tmp_path / "job.out", "started")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode != 0 and "Traceback" not in said
    left = subprocess.run(
        ["squeue", "--noheader"],
        env=cluster.environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (left.returncode, left.stdout) == (0, "")
    assert jobs.wait(jobs.submit(script("true")), 120).state == "COMPLETED"
