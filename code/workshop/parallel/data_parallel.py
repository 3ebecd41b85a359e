"""Data parallelism: every rank a full model, gradients averaged.

`NaiveDataParallel` averages after backward. `OverlappedDataParallel` sends
buckets of gradients by hooks while backward still runs (Li et al. 2020,
arXiv:2006.15704). Both are used in the same way::

    model = OverlappedDataParallel(model, group)
    with model.no_sync():                # all micro-batches but the last
        model(tokens, targets).backward()
    model(tokens, targets).backward()
    model.finish()                       # gradients are averaged after this
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from workshop import collectives
from workshop.parallel.buckets import Bucket, make_buckets
from workshop.parallel.copy_engine import (
    ALIGNMENT,
    CopyEngineAllReduce,
    available,
)


class DataParallel(nn.Module):
    """What both versions share: the module, its group, equal weights.

    Rank 0 of `group` gives its parameters and buffers to the others, so
    ranks may construct the module with different random seeds.
    `unused=True` allows parameters that take no part in a step, at the
    price of one small all-reduce and one synchronisation; without it such a
    parameter is an error that names it.
    """

    def __init__(
        self, module: nn.Module, group: ProcessGroup, unused: bool = False
    ) -> None:
        super().__init__()
        self.module = module
        self.group = group
        self.unused = unused
        self.ranks = dist.get_world_size(group)
        with torch.no_grad():
            for tensor in (*module.parameters(), *module.buffers()):
                collectives.broadcast(tensor.data, group)

    def forward(self, *args, **kwargs):
        """Call the module."""
        return self.module(*args, **kwargs)

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Return the names and parameters that get gradients, tied once."""
        return [
            (name, parameter)
            for name, parameter in self.module.named_parameters()
            if parameter.requires_grad
        ]

    def used_nowhere(
        self, parameters: list[nn.Parameter], missing: list[nn.Parameter]
    ) -> list[nn.Parameter]:
        """Return those of `missing` that no rank has used in this step."""
        absent = {id(parameter) for parameter in missing}
        used = torch.tensor(
            [0.0 if id(p) in absent else 1.0 for p in parameters],
            device=parameters[0].device,
        )
        collectives.all_reduce(used, self.group)
        return [
            parameter
            for parameter, ranks in zip(
                parameters, used.tolist(), strict=True
            )
            if ranks == 0
        ]

    def refuse(self, names: list[str]) -> NoReturn:
        """Raise the error for parameters without a gradient."""
        raise RuntimeError(
            f"no gradient for {', '.join(names[:3]) or 'any parameter'} in "
            "this step: pass unused=True if that is meant, and keep the "
            "last backward out of no_sync()"
        )


class NaiveDataParallel(DataParallel):
    """Average each gradient by one all-reduce after backward has ended."""

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Do nothing: before `finish` nothing is ever sent."""
        yield

    def finish(self) -> None:
        """Replace every gradient by its mean over the ranks.

        With `unused=True` a parameter that no rank has used keeps `None`,
        as in the dense model; one that some rank has used counts as zero on
        the others.
        """
        names = dict(self.trainable())
        parameters = list(names.values())
        missing = [p for p in parameters if p.grad is None]
        if missing and not self.unused:
            self.refuse([n for n, p in names.items() if p.grad is None])
        for parameter in missing:
            parameter.grad = torch.zeros_like(parameter)
        for parameter in parameters:
            collectives.all_reduce(parameter.grad, self.group)
            parameter.grad /= self.ranks
        if self.unused:
            for parameter in self.used_nowhere(parameters, missing):
                parameter.grad = None


class OverlappedDataParallel(DataParallel):
    """Average buckets of gradients while backward still runs.

    `bucket_mib` is the size of a bucket in MiB; a larger parameter has one
    of its own. `transport` is "collective" (NCCL or gloo), "copy_engine"
    (CUDA, one host) or "auto", which takes copy engines where they are
    available.
    """

    def __init__(
        self,
        module: nn.Module,
        group: ProcessGroup,
        bucket_mib: float = 100.0,
        unused: bool = False,
        transport: str = "auto",
    ) -> None:
        super().__init__(module, group, unused)
        self.syncing = True
        self.names = {parameter: name for name, parameter in self.trainable()}
        device = next(iter(self.names)).device
        self.stream = (
            torch.cuda.Stream(device, priority=-1)
            if device.type == "cuda"
            else None
        )
        if transport == "auto":
            direct = available(group, device)
            transport = "copy_engine" if direct else "collective"
        self.transport = transport
        multiple = self.ranks * ALIGNMENT if transport == "copy_engine" else 1
        self.buckets = make_buckets(list(self.names), bucket_mib, multiple)
        self._allocate(device)
        self.bucket_of = {
            parameter: bucket
            for bucket in self.buckets
            for parameter in bucket.parameters
        }
        for parameter in self.names:
            parameter.register_post_accumulate_grad_hook(self._on_gradient)
        self._reset()

    def _allocate(self, device: torch.device) -> None:
        """Give every bucket its flat buffer, all of a dtype in one piece."""
        self.reducers: dict[torch.dtype, CopyEngineAllReduce] = {}
        for dtype in {bucket.dtype for bucket in self.buckets}:
            same = [b for b in self.buckets if b.dtype == dtype]
            total = sum(bucket.elements for bucket in same)
            if self.transport == "copy_engine":
                longest = max(bucket.elements for bucket in same)
                reducer = CopyEngineAllReduce(
                    total, longest, dtype, device, self.group
                )
                self.reducers[dtype] = reducer
                memory = reducer.buffer
            else:
                memory = torch.zeros(total, dtype=dtype, device=device)
            start = 0
            for bucket in same:
                bucket.attach(memory, start)
                start += bucket.elements

    def _reset(self) -> None:
        for bucket in self.buckets:
            bucket.pending = len(bucket.parameters)
            bucket.work = None
        self.next = 0

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Accumulate gradients locally: backward in here sends nothing."""
        before, self.syncing = self.syncing, False
        try:
            yield
        finally:
            self.syncing = before

    def _on_gradient(self, parameter: Tensor) -> None:
        if not self.syncing:
            return
        bucket = self.bucket_of[parameter]
        if bucket.pending == 0:
            raise RuntimeError(
                f"{self.names[parameter]} got a second gradient before "
                "finish(): run all backward passes but the last inside "
                "no_sync()"
            )
        bucket.pending -= 1
        # Every rank launches in the same order, whatever order its
        # gradients arrive in: collectives are matched by order alone.
        while (
            self.next < len(self.buckets)
            and self.buckets[self.next].pending == 0
        ):
            self._launch(self.buckets[self.next])
            self.next += 1

    def _launch(self, bucket: Bucket) -> None:
        """Copy the bucket's gradients together and start their average."""
        if self.stream is None:
            bucket.fill()
            bucket.work = collectives.all_reduce(
                bucket.flat, self.group, async_op=True
            )
            return
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            bucket.fill(self.stream)
            if self.transport == "copy_engine":
                collectives.record("all_reduce", bucket.flat, self.group)
                self.reducers[bucket.dtype].average(bucket.start, bucket.stop)
            else:
                bucket.work = collectives.all_reduce(
                    bucket.flat,
                    self.group,
                    op=dist.ReduceOp.AVG,
                    async_op=True,
                )

    def finish(self) -> None:
        """Wait for the last bucket; every gradient is the mean afterwards.

        Call it once after the last backward of a step, on every rank. With
        `unused=False` a parameter without a gradient is a RuntimeError.
        """
        missing = [p for p in self.names if p.grad is None]
        if self.next < len(self.buckets):
            if not self.unused:
                self.refuse([self.names[parameter] for parameter in missing])
            for bucket in self.buckets[self.next :]:
                self._launch(bucket)
        self._wait()
        if self.unused:
            for parameter in self.used_nowhere(list(self.names), missing):
                parameter.grad = None
        self._reset()

    def _wait(self) -> None:
        side = (
            torch.cuda.stream(self.stream) if self.stream else (nullcontext())
        )
        with side:
            for reducer in self.reducers.values():
                reducer.finish()
            for bucket in self.buckets:
                if bucket.work is not None:
                    bucket.work.wait()
                if self.stream is None:
                    bucket.flat.div_(self.ranks)
        if self.stream is not None:
            torch.cuda.current_stream().wait_stream(self.stream)
