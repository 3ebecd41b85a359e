"""Choosing how gradients are averaged: one interface for all ways.

Every way has `module` (the dense model), `no_sync()` for micro-batches
whose gradients stay local, and `finish()` for after the last backward.
"""

from contextlib import AbstractContextManager, nullcontext

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from workshop.parallel.data_parallel import (
    NaiveDataParallel,
    OverlappedDataParallel,
)
from workshop.training.launch import Job

WAYS = ("naive", "overlapped", "ddp")


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
    model: nn.Module, way: str, job: Job, bucket_mib: float
) -> nn.Module:
    """Wrap `model`, which is on the job's device, in one of `WAYS`.

    `bucket_mib` is the size of a bucket in MiB; `naive` has none.  With one
    rank every way is `OneRank`.
    """
    if job.world_size == 1:
        return OneRank(model)
    if way == "naive":
        return NaiveDataParallel(model, dist.group.WORLD)
    if way == "overlapped":
        return OverlappedDataParallel(
            model, dist.group.WORLD, bucket_mib=bucket_mib
        )
    on_gpu = job.device.type == "cuda"
    return TorchDataParallel(
        model,
        device_ids=[job.device] if on_gpu else None,
        bucket_cap_mb=bucket_mib,
        gradient_as_bucket_view=True,
    )
