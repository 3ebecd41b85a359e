"""The loss on held-out text."""

import torch

from workshop.data.batches import Batches
from workshop.training.trainer import Trainer

BATCHES = 8


def held_out_loss(
    trainer: Trainer, batches: Batches, device: torch.device
) -> float:
    """Return the mean loss in nats a token, the same on every rank.

    The same at most `BATCHES` global batches are taken each time, fewer
    where the held-out text ends before.
    """
    count = max(1, min(BATCHES, batches.sequences // batches.global_batch))
    total = sum(trainer.loss(batches.on(device, i)) for i in range(count))
    return (total / count).item()
