"""Choosing how gradients are averaged: one interface for all ways.

Every way has `module` (the model, or this rank's part of it), `no_sync()`
for micro-batches whose gradients stay local, and `finish()` for after the
last backward. A run loads the way that it takes and no other.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.distributed import ProcessGroup
from torch.nn.parallel import DistributedDataParallel

WAYS = ("naive", "overlapped", "overlapped-collective", "ddp")


class OneRank(nn.Module):
    """A single rank: there is nothing to average, and nothing is copied."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        """Call the module."""
        return self.module(*args, **kwargs)

    def no_sync(self) -> AbstractContextManager[None]:
        """Do nothing."""
        return nullcontext()

    def finish(self) -> None:
        """Do nothing."""


class TorchDataParallel(DistributedDataParallel):
    """torch's own, which waits for its buckets inside backward."""

    def finish(self) -> None:
        """Do nothing: backward has averaged the gradients already."""


def data_parallel(
    model: nn.Module,
    way: str,
    group: ProcessGroup,
    device: torch.device,
    bucket_mib: float,
) -> nn.Module:
    """Wrap `model`, which is on `device`, in one of `WAYS`.

    `group` has the ranks whose gradients are averaged.  `bucket_mib` is the
    size of a bucket in MiB; `naive` has none.  `overlapped` takes copy
    engines where they are available, `overlapped-collective` never does.
    With one rank every way is `OneRank`.
    """
    if group.size() == 1:
        return OneRank(model)
    if way == "naive":
        from workshop.parallel.data.naive import NaiveDataParallel

        return NaiveDataParallel(model, group)
    if way != "ddp":
        from workshop.parallel.data.overlapped import OverlappedDataParallel

        transport = "auto" if way == "overlapped" else "collective"
        return OverlappedDataParallel(
            model, group, bucket_mib=bucket_mib, transport=transport
        )
    return TorchDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        process_group=group,
        bucket_cap_mb=bucket_mib,
        gradient_as_bucket_view=True,
    )
