"""`sh` of the notebooks, on a real cluster."""

import time

import pytest

from workshop.errors import UserError
from workshop.notebook import sh
from workshop.slurm.local import daemons


def test_a_cell_sees_the_cluster(slurm_cluster, capsys) -> None:
    sh("sinfo --noheader -N -o '%N %G'")
    said = capsys.readouterr().out.split()
    assert set(said) == {*slurm_cluster.names, "gpu:2"}


def test_inside_a_job_a_cell_still_asks_for_its_own(
    slurm_cluster, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "99999")
    monkeypatch.setenv("SLURM_NTASKS", "7")
    sh("srun --nodes=2 --ntasks-per-node=1 bash -c 'echo $SLURM_NTASKS'")
    assert capsys.readouterr().out.split() == ["2", "2"]


def test_a_cell_that_takes_too_long_leaves_no_job(slurm_cluster) -> None:
    with pytest.raises(UserError, match="was not over after 1 s"):
        sh("srun --job-name=late sleep 300", timeout=1)
    ends = time.monotonic() + 120
    base = slurm_cluster.path()
    while daemons.ask(base, ["squeue", "--noheader", "--name=late"]):
        assert time.monotonic() < ends, "the job outlives its cell"
        time.sleep(0.1)
