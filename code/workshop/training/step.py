"""One training step: gradients of a global batch, clipped, applied."""

import torch
from torch import Tensor
from torch.optim import Optimizer

from workshop.training.clipping import clipped_step
from workshop.training.hybrid import Strategy


def training_step(
    strategy: Strategy,
    optimizer: Optimizer,
    micro_batches: list[tuple[Tensor, Tensor]],
    clip: float,
    bf16: bool,
) -> Tensor:
    """Update the weights once; return (2,): mean loss and gradient norm.

    It is the same for every layout; the `strategy` knows how the model is
    spread.  Each micro-batch is (tokens, targets), both (b, s), of this
    rank's data parallel index.  The loss is the mean over all of the global
    batch, the norm that of the whole gradient before clipping.  On CUDA
    everything is only queued; nothing here waits for the device.
    """
    optimizer.zero_grad(set_to_none=True)
    loss = strategy.forward_backward(micro_batches, bf16)
    strategy.finish()
    norm = strategy.global_norm()
    clipped_step(optimizer, norm, clip)
    return torch.stack([strategy.mean(loss), norm])
