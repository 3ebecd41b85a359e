"""Which targets count, and how much each micro-batch weighs in the mean.

A target of `IGNORED` counts in no loss.  The loss of a step is the mean over
the tokens that count, wherever they lie: micro-batches in which more of them
count weigh more, on every rank.  That is the dense model's loss of the whole
global batch at once.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from workshop.errors import UserError

MicroBatch = tuple[Tensor, Tensor]

IGNORED = -100
"""As in `torch.nn.functional.cross_entropy`."""


def shares_of(
    micro_batches: list[MicroBatch],
    copies: int = 1,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Return each micro-batch's share of the mean loss, (m,) in float64.

    `group` are the ranks of the `copies` of the model.  Their shares add up
    to `copies`, for their losses are averaged.  Where all targets count, each
    is 1/m.  All ranks call it; nothing waits for the device.
    """
    counts = torch.stack(
        [(targets != IGNORED).sum() for _, targets in micro_batches]
    ).double()
    total = counts.sum()
    if copies > 1:
        dist.all_reduce(total, group=group)
    return counts * copies / total


def refuse_ignored(
    micro_batches: list[MicroBatch],
    remedy: str = "ask for Recipe(ignored_targets=True)",
) -> None:
    """Refuse targets that count in no loss, where each is taken to count.

    On CUDA the device does it, so that the host does not wait for it.

    Raises:
        UserError: a target is below 0.
    """
    message = (
        "some targets are below 0 and would count in no loss, but every "
        f"micro-batch is weighed alike: {remedy}"
    )
    lowest = torch.stack([targets.amin() for _, targets in micro_batches])
    if lowest.is_cuda:
        torch._assert_async(lowest.amin() >= 0, message)
    elif lowest.amin() < 0:
        raise UserError(message)


def weighed(loss: Tensor, share: Tensor | float) -> Tensor:
    """Return a micro-batch's loss times its share of the mean.

    One without any token that counts has no mean, and adds nothing.
    """
    if not isinstance(share, Tensor):
        return loss * share
    part = loss * share.to(loss.dtype)
    return torch.where(share > 0, part, torch.zeros_like(part))
