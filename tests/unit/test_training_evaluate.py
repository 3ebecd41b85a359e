"""The held-out loss: each sequence once, whatever the batch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from workshop.data.batches import Batches
from workshop.training import evaluate
from workshop.training.evaluate import held_out_loss

CPU = torch.device("cpu")
SEQUENCE, VOCABULARY, COUNT = 6, 9, 13
TOKENS = np.random.default_rng(0).integers(
    VOCABULARY, size=COUNT * SEQUENCE + 3, dtype=np.uint16
)
TABLE = torch.randn(
    VOCABULARY, VOCABULARY, dtype=torch.float64,
    generator=torch.Generator().manual_seed(0),
)  # fmt: skip


class Bigrams:
    """Stands for a trainer: a model that sees one token at a time."""

    def loss(self, micro_batches):
        tokens, targets = (torch.cat(x) for x in zip(*micro_batches))  # noqa: B905
        return F.cross_entropy(TABLE[tokens].flatten(0, 1), targets.flatten())


def due(count):
    """Return the loss of the first `count` sequences of an epoch."""
    one = Batches(TOKENS, SEQUENCE, 1)
    losses = [Bigrams().loss([one.at(step)]) for step in range(count)]
    return torch.stack(losses).mean().item()


@pytest.mark.parametrize("micro_batch", [1, 2, 5, 13, 32])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_it_does_not_depend_on_the_batch(micro_batch, accumulation):
    batches = Batches(TOKENS, SEQUENCE, micro_batch, accumulation)
    loss = held_out_loss(Bigrams(), batches, CPU)
    assert loss == pytest.approx(due(COUNT), rel=1e-12)


def test_a_long_text_is_cut_at_a_sequence(monkeypatch):
    monkeypatch.setattr(evaluate, "SEQUENCES", 7)
    loss = held_out_loss(Bigrams(), Batches(TOKENS, SEQUENCE, 4), CPU)
    assert loss == pytest.approx(due(7), rel=1e-12)
