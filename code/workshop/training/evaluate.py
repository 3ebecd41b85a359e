"""The loss on held-out text."""

import torch

from workshop.data.batches import Batches
from workshop.training.hybrid import Strategy

BATCHES = 8


def held_out_loss(
    strategy: Strategy, batches: Batches, device: torch.device, bf16: bool
) -> float:
    """Return the mean loss in nats a token, the same on every rank.

    The same at most `BATCHES` global batches are taken each time, fewer
    where the held-out text ends before.
    """
    count = max(1, min(BATCHES, batches.sequences // batches.global_batch))
    total = torch.zeros((), device=device)
    training = [chunk.training for chunk in strategy.chunks]
    for chunk in strategy.chunks:
        chunk.eval()
    for i in range(count):
        total += strategy.loss(batches.on(device, i), bf16)
    for chunk, before in zip(strategy.chunks, training, strict=True):
        chunk.train(before)
    return strategy.mean(total / count).item()
