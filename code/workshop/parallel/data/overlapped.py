"""Data parallelism that averages while backward still runs.

Buckets of gradients are sent by hooks as soon as they are complete (Li et
al. 2020, arXiv:2006.15704).
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from workshop import collectives
from workshop.errors import UserError
from workshop.parallel.data.buckets import Bucket, make_buckets
from workshop.parallel.data.copy_engine import (
    ALIGNMENT,
    CopyEngineAllReduce,
)
from workshop.parallel.data.naive import DataParallel
from workshop.parallel.peer_memory import available


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
        if not self.names:
            raise UserError(
                "no parameter of the model is trainable, so there is nothing "
                "to average: leave data parallelism out"
            )
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
        # Python's collector does not look behind the hooks of a parameter:
        # one that held the wrapper would keep it for ever, with its buckets.
        myself = weakref.WeakMethod(self._on_gradient)
        for parameter in self.names:
            parameter.register_post_accumulate_grad_hook(
                partial(_call_if_alive, myself)
            )
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


def _call_if_alive(method: weakref.WeakMethod, parameter: Tensor) -> None:
    """Call a method of an object that may be gone."""
    if (alive := method()) is not None:
        alive(parameter)
