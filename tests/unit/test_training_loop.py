"""What the loop and the trainer give the optimizer: rate, decay, betas."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from workshop.data.batches import Batches
from workshop.groups import Groups
from workshop.job.launch import Job
from workshop.layout import Layout
from workshop.models.gpt import GPT, GPTConfig
from workshop.training.layout_trainer import LayoutTrainer
from workshop.training.loop import Options, train
from workshop.training.optimizer import make_optimizer
from workshop.training.trainer import Recipe

CONFIG = GPTConfig(layers=1, hidden=16, heads=2, sequence=8, vocabulary=37)
PEAK, RISE, STEPS = 0.25, 2, 5


class Steps:
    """A trainer that notes the learning rates, and no more."""

    def __init__(self):
        self.rates = []

    def step(self, micro_batches, lr):
        self.rates.append(lr)
        return torch.tensor([1.0, 2.0])


class Reports:
    """A reporter that keeps the number of every step."""

    job = Job(0, 1, torch.device("cpu"))

    def __init__(self):
        self.steps = []

    def step(self, mark):
        self.steps.append(mark.step)


def batches():
    tokens = np.arange(8 * 16 + 1, dtype=np.uint16)
    return Batches(tokens, sequence=8, micro_batch=1)


@pytest.mark.parametrize("start", [0, 3])
def test_every_step_has_the_rate_of_its_number(start):
    trainer, reports = Steps(), Reports()
    options = Options(STEPS, PEAK, RISE)
    train(trainer, batches(), batches(), options, reports, start=start)
    # Two rising steps, then half a cosine down to a tenth of the peak.
    due = [PEAK / 2, PEAK]
    for done in range(STEPS - RISE):
        cosine = (1 + math.cos(math.pi * done / (STEPS - RISE))) / 2
        due.append(PEAK * (0.1 + 0.9 * cosine))
    assert trainer.rates == pytest.approx(due[start:], rel=1e-12)
    assert reports.steps == list(range(start + 1, STEPS + 1))


def test_the_optimizer_is_the_one_of_the_paper():
    """Brown et al. 2020, appendix B, by its own numbers."""
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    for dtype in (torch.float32, torch.bfloat16):
        optimizer = make_optimizer(model.to(dtype), lr=0.5)
        matrices, vectors = optimizer.param_groups
        assert [p.dim() for p in matrices["params"]] == [2]
        assert [p.dim() for p in vectors["params"]] == [1, 1, 1]
        for group, decay in ((matrices, 0.1), (vectors, 0.0)):
            assert group["betas"] == (0.9, 0.95)
            assert group["weight_decay"] == decay
            assert group["eps"] == 1e-8 and group["lr"] == 0.5


def test_a_step_sets_the_rate_of_every_group():
    layout = Layout(micro_batch=2)
    group = SimpleNamespace(size=lambda: 1)
    alone = Groups(layout, layout.coordinate(0), group, group, group)
    trainer = LayoutTrainer(lambda: GPT(CONFIG), alone, Recipe())
    before = {n: p.detach().clone() for n, p in trainer.parameters.items()}
    tokens = torch.randint(37, (2, 9))
    trainer.step([(tokens[:, :-1], tokens[:, 1:])], 0.125)
    assert [g["lr"] for g in trainer.optimizer.param_groups] == [0.125] * 2
    for name, parameter in trainer.parameters.items():
        if parameter.grad.abs().max() > 1e-6:
            # Adam's first step moves an element by the rate itself.
            moved = (parameter - before[name]).abs().max().item()
            assert moved == pytest.approx(0.125, rel=0.1), name
