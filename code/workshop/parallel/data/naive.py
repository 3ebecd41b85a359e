"""Data parallelism: every rank a full model, gradients averaged after it.

`NaiveDataParallel` and `workshop.parallel.data.overlapped` are used in the
same way::

    model = NaiveDataParallel(model, group)
    with model.no_sync():                # all micro-batches but the last
        model(tokens, targets).backward()
    model(tokens, targets).backward()
    model.finish()                       # gradients are averaged after this
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import ProcessGroup

from workshop import collectives


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
            parameter.grad = torch.zeros_like(
                parameter, dtype=parameter.grad_dtype
            )
        for parameter in parameters:
            collectives.all_reduce(parameter.grad, self.group)
            parameter.grad /= self.ranks
        if self.unused:
            for parameter in self.used_nowhere(parameters, missing):
                parameter.grad = None
