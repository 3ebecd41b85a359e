"""The loss on held-out text."""

import torch
from torch import nn

from workshop.data.batches import Batches
from workshop.training.step import mean_over_ranks

BATCHES = 8


@torch.no_grad()
def held_out_loss(
    module: nn.Module, batches: Batches, device: torch.device, bf16: bool
) -> float:
    """Return the mean loss in nats a token over all ranks.

    `module` is the dense model.  The same at most `BATCHES` global batches
    are taken each time, fewer where the held-out text ends before.
    """
    count = max(1, min(BATCHES, batches.sequences // batches.global_batch))
    total = torch.zeros((), device=device)
    was_training = module.training
    module.eval()
    for i in range(count):
        for tokens, targets in batches.on(device, i):
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                total += module(tokens, targets)
    module.train(was_training)
    total /= count * batches.accumulation
    return mean_over_ranks(total).item()
