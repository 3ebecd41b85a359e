"""A run that a signal stops saves, says so, and goes on bit for bit."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from pretrain_runs import STEPS, pretrain, values

from workshop.errors import UserError
from workshop.job import stop
from workshop.job.launch import Job
from workshop.training import checkpoint
from workshop.training.checkpoints import Checkpoints
from workshop.training.layout_trainer import LayoutTrainer

TOLD = 2  # the step in which a rank is told


def stopped(rank, world, folder, told, by, *argv):
    """Run until rank `told` signals itself in step `TOLD`."""
    taken, step = [], LayoutTrainer.step

    def counted(self, *given):
        taken.append(1)
        if rank == told and len(taken) == TOLD:
            os.kill(os.getpid(), by)
        return step(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LayoutTrainer, "step", counted)
        patch.setattr(stop, "KEY", f"stop/{by}/{folder}")
        patch.setattr(stop.Stop.__init__, "__defaults__", (stop.KEY,))
        events = pretrain(rank, world, folder, *argv)
    return len(taken), events


@pytest.mark.parametrize(
    ("told", "by"), [(0, signal.SIGUSR1), (1, signal.SIGTERM)]
)
def test_one_rank_is_told_and_all_stop_and_resume(pool2, tmp_path, told, by):
    folder = str(tmp_path)
    steps = ("--steps", str(STEPS + 6))
    whole = pool2.run(pretrain, folder, *steps)[0]
    kept = ("--checkpoint", f"{folder}/kept", *steps)
    ends = pool2.run(stopped, folder, told, by, *kept)
    counts = {count for count, _ in ends}
    assert len(counts) == 1, "ranks stop after different steps"
    (last,) = counts
    assert TOLD <= last <= TOLD + stop.AHEAD + 1
    assert os.listdir(tmp_path / "kept") == [f"step-{last:08d}"]
    resumed = pool2.run(pretrain, folder, *kept, "--resume")[0]
    assert values(resumed) == values(whole)


def elsewhere(rank, world, folder):
    own = Path(folder) / str(rank)
    if rank == 0:
        checkpoint.save(own, 3, {}, {})
    job = Job(rank, world, torch.device("cpu"))
    try:
        Checkpoints(None, job, None, own, {}).resume()
    except UserError as error:
        return str(error)


def test_a_folder_that_nodes_do_not_share_is_refused_by_all(pool2, tmp_path):
    said = pool2.run(elsewhere, str(tmp_path))
    for each in said:
        assert "rank 0 sees step-00000003 and rank 1 nothing" in each
        assert "a folder that all nodes share" in each


def test_the_first_rank_that_was_told_says_for_all(monkeypatch):
    store = dist.HashStore()
    monkeypatch.setattr(
        dist.distributed_c10d, "_get_default_store", lambda: store
    )
    job = Job(0, 2, torch.device("cpu"))
    slow, fast = (stop.Stop(job, keeps=True) for _ in range(2))
    slow.by = fast.by = "SIGUSR1"
    assert [fast.after(4), slow.after(3)] == [False, False]
    # Six is the last step for both, though slow alone would say five.
    assert [slow.after(n) for n in (4, 5, 6)] == [False, False, True]
    assert [fast.after(n) for n in (5, 6)] == [False, True]


def test_without_a_checkpoint_a_signal_ends_it_with_a_sentence(capfd):
    """In a process of its own, for it dies."""
    child = os.fork()
    if not child:
        job = Job(0, 1, torch.device("cpu"))
        with stop.Stop(job, keeps=False).listening():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM
    said = capfd.readouterr().err
    assert "error: stopped by SIGTERM, and nothing" in said
    assert "--checkpoint" in said
