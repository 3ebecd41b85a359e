"""A cluster that is broken is noticed, named, and started anew."""

import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner, Result

from workshop.cli.cluster import app
from workshop.errors import UserError
from workshop.slurm import jobs, profile, state
from workshop.slurm import local as cluster
from workshop.slurm.local import daemons, packages, programs
from workshop.slurm.state import Layout


def workshop_cluster(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def sleepers(mark: str) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if mark in (process.info["cmdline"] or ())
    ]


def start_sleeper(layout: Layout, mark: str) -> None:
    """Submit a job that sleeps `mark` seconds and wait until it does."""
    script = layout.path("sleeper.sbatch")
    script.write_text(f"#!/bin/bash\nsrun sleep {mark}\n")
    jobs.submit(script, options=["--output=/dev/null"])
    ends = time.monotonic() + 120
    while not any(p.name() == "sleep" for p in sleepers(mark)):
        assert time.monotonic() < ends, "the job does not start"
        time.sleep(0.1)


@pytest.mark.parametrize("name", ["munged", "slurmctld", "slurmd of node1"])
def test_dead_daemon_is_named_and_mended(
    slurm_cluster: Layout, second_base: Path, name: str
) -> None:
    layout = cluster.start(nodes=1, gpus_per_node=1, real=False)
    mark = f"98{os.getpid()}"
    start_sleeper(layout, mark)
    program, pid_file = layout.daemons()[name]
    dead = psutil.Process(state.daemon_pid(pid_file, program))
    dead.send_signal(signal.SIGKILL)
    psutil.wait_procs([dead], timeout=60)
    status = workshop_cluster("status")
    assert (status.exit_code, f"{name} is dead" in status.output) == (3, True)
    with pytest.raises(UserError, match=f"{name} is dead: mend it"):
        profile.load()
    started = workshop_cluster("start")
    assert started.exit_code == 0 and f"{name} is dead" in started.output
    assert "1 node of 1 pretended GPU" in started.output
    assert not sleepers(mark), "a job outlives its cluster"
    assert jobs.wait(jobs.submit("slurm/hello.sbatch", nodes=1), 120).ended


@pytest.mark.long
@pytest.mark.parametrize("name", ["munged", "slurmctld"])
def test_a_daemon_that_does_not_answer_shows_in_status_and_start(
    slurm_cluster: Layout, monkeypatch, name: str
) -> None:
    monkeypatch.setattr(daemons, "ANSWER_TIMEOUT_S", 1)
    program, pid_file = slurm_cluster.daemons()[name]
    stuck = psutil.Process(state.daemon_pid(pid_file, program))
    stuck.suspend()
    try:
        for command in ("status", "start"):
            said = workshop_cluster(command)
            assert said.exit_code == 3, said.output
            assert "munged or slurmctld does not serve sinfo" in said.output
    finally:
        stuck.resume()
    assert workshop_cluster("status").exit_code == 0


def test_a_node_that_the_controller_lost_shows_in_status_and_start(
    slurm_cluster: Layout, shell
) -> None:
    update = "scontrol update nodename=node2 state="
    try:
        assert shell(f"{update}down reason=test").returncode == 0
        for command in ("status", "start"):
            said = workshop_cluster(command)
            assert said.exit_code == 3, said.output
            assert "broken: node2 is down" in said.output
        assert shell(f"{update}resume").returncode == 0
        wait_until_up()
        assert shell(f"{update}drain reason=test").returncode == 0
        assert workshop_cluster("status").exit_code == 0
    finally:
        shell(f"{update}resume")
    wait_until_up()


def wait_until_up() -> None:
    """Wait until a node that was down has registered again."""
    ends = time.monotonic() + 60
    while workshop_cluster("status").exit_code:
        assert time.monotonic() < ends, workshop_cluster("status").output
        time.sleep(0.2)


@pytest.mark.long
def test_vanished_programs_of_a_spaced_path_are_unpacked_again(
    slurm_cluster: Layout, spaced_checkout: Path
) -> None:
    if programs.installed():
        pytest.skip("Slurm is installed here, so nothing is unpacked")
    layout = cluster.start(nodes=1)
    mark = f"97{os.getpid()}"
    start_sleeper(layout, mark)
    shutil.rmtree(packages.unpacked())
    status = workshop_cluster("status")
    assert status.exit_code == 3 and "is gone" in status.output
    with pytest.raises(UserError, match="is gone: mend it"):
        cluster.environment()
    started = workshop_cluster("start")
    assert started.exit_code == 0 and "is gone" in started.output
    assert not sleepers(mark), "a job outlives its cluster"
    job_id = jobs.submit(
        "slurm/torchrun_node.sbatch", ["tests.slurm.all_reduce"]
    )
    said = Path(jobs.wait(job_id, 300).output)
    assert said.parent == spaced_checkout / "slurm" / "logs"
    assert said.read_text().count("sum 3") == 2


def test_a_program_that_vanished_is_named(slurm_cluster: Layout) -> None:
    """What `start` does then is in the long tests."""
    gone = replace(slurm_cluster, programs=("/nowhere/slurmctld",))
    assert state.broken(gone) == "its program /nowhere/slurmctld is gone"
    assert state.broken(slurm_cluster) is None


def test_another_program_under_the_number_is_no_daemon(
    tmp_path: Path,
) -> None:
    pid_file = tmp_path / "run" / "slurmctld.pid"
    pid_file.parent.mkdir()
    pid_file.write_text(f"{os.getpid()}\n")
    assert state.daemon_pid(pid_file, "slurmctld") is None
