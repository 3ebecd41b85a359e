"""Clipping by the global norm, without asking the device for a number.

Pascanu et al. 2013 (arXiv:1211.5063), section 3.2: a gradient whose norm
exceeds a limit is scaled down to it.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from workshop import collectives
from workshop.groups import Groups
from workshop.parallel.placement import Placement, placed
from workshop.training.master_adamw import MasterAdamW

EPSILON = 1e-6


def global_norm(
    parameters: Mapping[str, nn.Parameter],
    placement: Mapping[str, Placement],
    groups: Groups,
) -> Tensor:
    """Return the L2 norm of the dense model's whole gradient, a scalar.

    It stays on the device: reading it would make the host wait for the
    backward pass.  Parameters without a gradient are left out.

    `parameters` are this rank's by name.  Where ranks share one model,
    squares are added up over the tensor and pipeline parallel groups, each
    element where its placement says that it counts.

    Raises:
        KeyError: a parameter has no placement.
    """
    layout = groups.layout
    counted = [
        parameter
        for name, parameter in parameters.items()
        if placed(placement, name).counts_at(groups.at)
    ]
    norm = local_norm(counted)
    if norm is None:
        some = next(iter(parameters.values()))
        dtype = torch.promote_types(some.dtype, torch.float32)
        norm = torch.zeros((), dtype=dtype, device=some.device)
    if layout.model_size == 1:
        return norm
    square = norm.square()
    for group, size in ((groups.tp, layout.tp), (groups.pp, layout.pp)):
        if size > 1:
            collectives.all_reduce(square, group)
    return square.sqrt()


def local_norm(parameters: Iterable[nn.Parameter]) -> Tensor | None:
    """Return the L2 norm of the gradients that are here, None without."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return None
    # Norms of 16-bit tensors are rounded to 16 bits unless told otherwise.
    narrow = any(gradient.itemsize < 4 for gradient in gradients)
    dtype = torch.float32 if narrow else None
    norms = torch._foreach_norm(gradients, 2, dtype=dtype)
    return torch.linalg.vector_norm(torch.stack(norms))


def clipped_step(
    optimizer: Optimizer, norm: Tensor, limit: float, scale: float = 1.0
) -> None:
    """Update the weights with gradients scaled to a norm of `limit`.

    The gradients are `scale` times too large, and `norm` is not.

    A fused AdamW divides every gradient by its attribute `grad_scale` while
    it reads it, which is meant for loss scaling (`torch.amp.GradScaler`
    sets it).  Here it holds scale · max(1, (norm + ε) / limit), so that it
    costs no pass over the gradients of its own; afterwards `.grad` holds
    the clipped gradients.  MasterAdamW takes the coefficient itself and
    leaves `.grad` as it is.  `limit=0` means no clipping.

    Raises:
        ValueError: the optimizer is another one, or not fused.
    """
    divide = None
    if limit or scale != 1.0:
        divide = torch.full_like(norm, scale)
    if limit:
        divide *= ((norm + EPSILON) / limit).clamp(min=1.0)
    if isinstance(optimizer, MasterAdamW):
        optimizer.step(clip=None if divide is None else 1 / divide)
        return
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        raise ValueError(
            f"{type(optimizer).__name__} does not scale gradients as it "
            "reads them: construct it with fused=True"
        )
    if divide is None:
        optimizer.step()
        return
    optimizer.grad_scale = divide.to(torch.float32)
    try:
        optimizer.step()
    finally:
        del optimizer.grad_scale
