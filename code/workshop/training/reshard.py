"""Dense states from any layout, and any layout's states from dense ones.

A checkpoint holds each tensor whole, under its name in the dense GPT: the
weights, and per parameter what the optimizer remembers. So it says nothing
of the ranks that wrote it, and any layout can take its part of it.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from workshop.errors import UserError
from workshop.groups import Coordinate, Groups
from workshop.parallel.tensor import transform as tensor_parallel
from workshop.training.hybrid import Strategy

WEIGHT = "weight"


class Label(NamedTuple):
    """Which tensor of which parameter, and what it looks like on a rank."""

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: torch.dtype


def gather(
    strategy: Strategy, optimizer: Optimizer, vocabulary: int
) -> dict[str, Any] | None:
    """Return the dense state on rank 0, on the CPU, and None elsewhere.

    All ranks call it.  Data parallel copies are equal, so those of index 0
    send theirs, tensor by tensor: no rank holds more than its own part and
    the one tensor that travels, and rank 0 the whole.

    Returns:
        `model`: name -> tensor; `optimizer`: `state`, name -> kind ->
        tensor, and `groups`, the options of each parameter group.
    """
    groups = strategy.groups
    mine = list(_tensors(strategy, optimizer)) if groups.at.dp == 0 else []
    labels = [label for label, _ in mine]
    everyone: list[list[Label]] = [[] for _ in range(groups.dims.world_size)]
    dist.all_gather_object(everyone, labels)
    if dist.get_rank() > 0:
        for _, tensor in mine:
            dist.send(_bytes(tensor), 0)
        return None
    state: dict[str, dict[str, Tensor]] = {}
    for stage in range(groups.dims.pp):
        owners = [
            groups.dims.rank(Coordinate(stage, 0, shard))
            for shard in range(groups.dims.tp)
        ]
        for i, label in enumerate(everyone[owners[0]]):
            shards = [
                mine[i][1].cpu() if rank == 0 else _received(label, rank)
                for rank in owners
            ]
            state.setdefault(label.name, {})[label.kind] = _dense(
                label.name, shards, vocabulary
            )
    return {
        "model": {name: of.pop(WEIGHT) for name, of in state.items()},
        "optimizer": {
            "state": {name: of for name, of in state.items() if of},
            "groups": [
                {k: v for k, v in group.items() if k != "params"}
                for group in optimizer.param_groups
            ],
        },
    }


def scatter(
    state: dict[str, Any], strategy: Strategy, optimizer: Optimizer
) -> None:
    """Load this rank's part of a dense state, weights and optimizer.

    Every rank has the whole `state`, as `gather` returned it, on its CPU.

    Raises:
        UserError: a parameter is missing in it or has another shape.
    """
    groups = strategy.groups
    numbers, remembered = {}, {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            numbers[parameter] = len(numbers)
    with torch.no_grad():
        for name, parameter in strategy.named_parameters():
            part = _part(name, state["model"].get(name), groups)
            if part is None or part.shape != parameter.shape:
                found = "missing" if part is None else tuple(part.shape)
                raise UserError(
                    f"the checkpoint's {name} is {found} for this rank and "
                    f"the model's {tuple(parameter.shape)}: resume with the "
                    "model that it was made with"
                )
            parameter.copy_(part)
            if parameter in numbers:
                # Cloned: a part may be a view of the file.
                remembered[numbers[parameter]] = {
                    kind: _part(name, tensor, groups).clone()
                    for kind, tensor in state["optimizer"]["state"]
                    .get(name, {})
                    .items()
                }
    options = zip(
        state["optimizer"]["groups"],
        optimizer.state_dict()["param_groups"],
        strict=True,
    )
    optimizer.load_state_dict(
        {
            "state": remembered,
            "param_groups": [
                {**saved, "params": group["params"]}
                for saved, group in options
            ],
        }
    )


def _tensors(
    strategy: Strategy, optimizer: Optimizer
) -> Iterator[tuple[Label, Tensor]]:
    """Yield what this rank has to save; another saves a tied copy."""
    for name, parameter in strategy.named_parameters():
        if getattr(parameter, "tied_copy", False):
            continue
        kept = optimizer.state.get(parameter, {})
        for kind, value in {WEIGHT: parameter, **kept}.items():
            if isinstance(value, Tensor):
                tensor = value.detach()
                yield (
                    Label(name, kind, (*tensor.shape,), tensor.dtype),
                    tensor,
                )


def _bytes(tensor: Tensor) -> Tensor:
    """Return the tensor as it travels: gloo does not know every dtype."""
    return tensor.cpu().contiguous().view(-1).view(torch.uint8)


def _received(label: Label, rank: int) -> Tensor:
    tensor = torch.empty(label.shape, dtype=label.dtype)
    dist.recv(_bytes(tensor), rank)
    return tensor


def _dense(name: str, shards: list[Tensor], vocabulary: int) -> Tensor:
    """Put the shards of one tensor together; a number has none."""
    if len(shards) == 1 or shards[0].dim() == 0:
        return shards[0]
    return tensor_parallel.unshard_tensor(
        name, shards, tensor_parallel.PLAN, vocabulary
    )


def _part(name: str, dense: Tensor | None, groups: Groups) -> Tensor | None:
    """Cut this rank's part out of one tensor."""
    if dense is None or dense.dim() == 0 or groups.dims.tp == 1:
        return dense
    return tensor_parallel.shard_tensor(
        name, dense, tensor_parallel.PLAN, groups.at.tp, groups.dims.tp
    )
