"""Buckets of gradients: many tensors that travel as one message."""

from typing import Any

import torch
from torch import Tensor, nn


class Bucket:
    """Parameters whose gradients, of one dtype, lie side by side in `flat`.

    `elements` is the length of `flat`, rounded up to `multiple`; `pending`
    counts the gradients that are still missing.
    """

    def __init__(
        self, parameters: list[nn.Parameter], multiple: int = 1
    ) -> None:
        self.parameters = parameters
        self.dtype = parameters[0].grad_dtype
        length = sum(parameter.numel() for parameter in parameters)
        self.elements = -(-length // multiple) * multiple
        self.pending = len(parameters)
        self.work: Any = None

    def attach(self, memory: Tensor, start: int) -> None:
        """Take `memory[start:start + elements]` as the flat buffer."""
        self.start, self.stop = start, start + self.elements
        self.flat = memory[self.start : self.stop]
        self.views, offset = [], 0
        for parameter in self.parameters:
            end = offset + parameter.numel()
            self.views.append(self.flat[offset:end].view_as(parameter))
            offset = end

    def fill(self, stream: torch.cuda.Stream | None = None) -> None:
        """Bring all gradients into `flat` and let `.grad` point there.

        A gradient that is there already stays; a missing one is zero.
        With `stream`, which must be current, the memory of the old
        gradients is kept until the copies on it are done.
        """
        sources, targets = [], []
        for parameter, view in zip(self.parameters, self.views, strict=True):
            if parameter.grad is None:
                view.zero_()
            elif parameter.grad.data_ptr() != view.data_ptr():
                sources.append(parameter.grad)
                targets.append(view)
            parameter.grad = view
        # One copy each and not one fused kernel: on CUDA these run on the
        # copy engines and leave the multiprocessors to backward.
        for target, source in zip(targets, sources, strict=True):
            target.copy_(source, non_blocking=True)
        if stream is not None:
            for source in sources:
                source.record_stream(stream)


def make_buckets(
    parameters: list[nn.Parameter], mib: float, multiple: int = 1
) -> list[Bucket]:
    """Group `parameters` into buckets of about `mib` MiB.

    The order is reversed, for backward reaches the last layer first. Each
    bucket's length is rounded up to `multiple` elements.
    """
    buckets: list[Bucket] = []
    current: list[nn.Parameter] = []
    size = 0.0
    for parameter in reversed(parameters):
        dtype = parameter.grad_dtype
        length = parameter.numel() * dtype.itemsize / 2**20
        full = current and size + length > mib
        if full or (current and current[0].grad_dtype != dtype):
            buckets.append(Bucket(current, multiple))
            current, size = [], 0.0
        current.append(parameter)
        size += length
    if current:
        buckets.append(Bucket(current, multiple))
    return buckets
