"""The loss on held-out text."""

import torch

from workshop.data.batches import Batches
from workshop.training.trainer import Trainer

SEQUENCES = 4096
"""So many are evaluated at most, whatever the batch."""


def held_out_loss(
    trainer: Trainer, batches: Batches, device: torch.device
) -> float:
    """Return the mean loss in nats a token, the same on every rank.

    Each held-out sequence counts once, the first `SEQUENCES` of them where
    there are more, so the loss does not depend on the batch: what the last
    global batch has beyond them is filled up and not counted.
    """
    wanted = min(SEQUENCES, batches.sequences)
    steps = -(-wanted // batches.global_batch)
    total = 0.0
    for step in range(steps):
        counted = min(
            batches.global_batch, wanted - step * batches.global_batch
        )
        loss = trainer.loss(batches.on(device, step, wanted))
        total = total + loss.double() * counted
    return (total / wanted).item()
