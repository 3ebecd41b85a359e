"""Clipping by the global norm, without asking the device for a number.

Pascanu et al. 2013 (arXiv:1211.5063), section 3.2: a gradient whose norm
exceeds a limit is scaled down to it.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

EPSILON = 1e-6


def global_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return the L2 norm of all gradients together, a scalar tensor.

    It stays on the device: reading it would make the host wait for the
    backward pass.  Parameters without a gradient are left out.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    return nn.utils.get_total_norm(gradients, foreach=True)


def clipped_step(optimizer: Optimizer, norm: Tensor, limit: float) -> None:
    """Update the weights with gradients scaled to a norm of `limit`.

    A fused AdamW divides every gradient by its attribute `grad_scale` while
    it reads it, which is meant for loss scaling (`torch.amp.GradScaler`
    sets it).  Here it holds max(1, norm / limit), so that clipping costs no
    pass over the gradients of its own; afterwards `.grad` holds the clipped
    gradients.  `limit=0` means no clipping.
    """
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        raise ValueError(
            f"{type(optimizer).__name__} does not scale gradients as it "
            "reads them: construct it with fused=True"
        )
    if limit == 0:
        optimizer.step()
        return
    scale = ((norm + EPSILON) / limit).clamp(min=1.0)
    optimizer.grad_scale = scale.to(torch.float32)
    try:
        optimizer.step()
    finally:
        del optimizer.grad_scale
