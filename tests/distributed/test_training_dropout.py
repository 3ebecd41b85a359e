"""Training that drops: who draws what, what resumes, what evaluates."""

from dataclasses import replace
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from pool import Pool
from pretrain_runs import pretrain, values
from training_cases import groups_of

from workshop.layout import Layout
from workshop.models.gpt import CONFIGS, GPT, GPTConfig
from workshop.training.layout_trainer import LayoutTrainer
from workshop.training.trainer import Recipe

CONFIG = GPTConfig(
    layers=2, hidden=16, heads=2, sequence=8, vocabulary=37, dropout=0.2
)
TENSOR = ("--tensor-parallel-size", "2")
STAGES = ("--pipeline-parallel-size", "2")


def pretrain_dropping(rank, world, folder, *argv):
    """Pretrain with dropout; return the steps and what comes next of it."""
    tiny = replace(CONFIGS["tiny"], dropout=0.2)
    with mock.patch.dict(CONFIGS, tiny=tiny):
        events = pretrain(rank, world, folder, *argv)
    return values(events), torch.rand(8)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize(
    ("flags", "alike"),
    [
        ((), False),
        (TENSOR, True),
        ((*TENSOR, "--sequence-parallel"), False),
        (STAGES, False),
    ],
    ids=["dp", "tp", "sp", "pp"],
)
def test_resuming_drops_what_the_whole_run_drops(
    pool2: Pool, cache: str, tmp_path, flags: tuple[str, ...], alike: bool
) -> None:
    def train(*more: str) -> list:
        argv = ("--micro-batch", "2", "--save-every", "2", *flags, *more)
        return pool2.run(pretrain_dropping, cache, *argv)

    whole_run = train("--checkpoint", str(tmp_path / "all"))
    (whole, first), (_, second) = whole_run
    assert torch.equal(first, second) == alike
    part = tmp_path / "part"
    part.mkdir()
    name = "step-00000002"
    (part / name).symlink_to(tmp_path / "all" / name)
    (resumed, third), (_, fourth) = train(
        "--checkpoint", str(part), "--resume"
    )
    assert resumed[-2:] == whole[-2:]
    assert torch.equal(first, third) and torch.equal(second, fourth)


def test_resuming_in_another_layout_draws_anew(
    pool2: Pool, cache: str, tmp_path
) -> None:
    """Equal states of tensor parallel ranks would repeat one mask."""
    saved = ("--micro-batch", "2", "--checkpoint", str(tmp_path), *TENSOR)
    pool2.run(pretrain_dropping, cache, *saved)
    more = ("--resume", "--steps", "5", "--sequence-parallel")
    (_, first), (_, second) = pool2.run(
        pretrain_dropping, cache, *saved, *more
    )
    assert not torch.equal(first, second)


def evaluate(rank: int, world: int, layout: Layout) -> list[float]:
    """Return a batch's losses: evaluated twice, without dropout, trained."""

    def trainer(config: GPTConfig) -> LayoutTrainer:
        def model() -> GPT:
            torch.manual_seed(1)
            return GPT(config).double()

        return LayoutTrainer(model, groups_of(layout), Recipe())

    tokens = torch.randint(37, (2, 9), generator=torch.manual_seed(2))
    batch = [(tokens[:, :-1], tokens[:, 1:])] * layout.num_microbatches
    dropping, sound = trainer(CONFIG), trainer(replace(CONFIG, dropout=0.0))
    losses = [dropping.loss(batch).item() for _ in range(2)]
    assert all(m.training for c in dropping.chunks for m in c.modules())
    losses.append(sound.loss(batch).item())
    torch.manual_seed(3 + rank)
    losses.append(dropping.forward_backward(batch).item())
    dropping.close()
    sound.close()
    dist.barrier()
    return losses


@pytest.mark.parametrize(
    "layout",
    [
        Layout(dp=2, micro_batch=2),
        Layout(pp=2, micro_batch=2, num_microbatches=2),
    ],
    ids=["dp", "pp"],
)
def test_evaluation_drops_nothing_and_training_goes_on(
    pool2: Pool, layout: Layout
) -> None:
    for once, twice, sound, trained in pool2.run(evaluate, layout):
        assert once == twice == pytest.approx(sound, rel=1e-12)
        assert abs(trained - sound) > 1e-6 * layout.dp  # it drops again
