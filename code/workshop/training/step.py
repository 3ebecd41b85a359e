"""One training step: gradients of a global batch, clipped, applied."""

from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from workshop.training.clipping import clipped_step, global_norm


def training_step(
    model: nn.Module,
    optimizer: Optimizer,
    micro_batches: list[tuple[Tensor, Tensor]],
    clip: float,
    bf16: bool,
) -> Tensor:
    """Update the weights once; return (2,): mean loss and gradient norm.

    `model` is wrapped as `strategy.data_parallel` does it, and each
    micro-batch is (tokens, targets), both (b, s).  The loss is the mean
    over all ranks and micro-batches, the norm that before clipping.  On
    CUDA everything is only queued; nothing here waits for the device.
    """
    optimizer.zero_grad(set_to_none=True)
    share = 1 / len(micro_batches)
    device = micro_batches[0][0].device
    loss = torch.zeros((), device=device)
    for i, (tokens, targets) in enumerate(micro_batches, start=1):
        last = i == len(micro_batches)
        with nullcontext() if last else model.no_sync():
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                part = model(tokens, targets) * share
            part.backward()
        loss += part.detach()
    model.finish()
    norm = global_norm(model.parameters())
    clipped_step(optimizer, norm, clip)
    return torch.stack([mean_over_ranks(loss), norm])


def mean_over_ranks(value: Tensor) -> Tensor:
    """Return the mean of a tensor over all ranks of the job."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value
