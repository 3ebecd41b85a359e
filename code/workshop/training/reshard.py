"""Dense states from any layout, and any layout's states from dense ones.

A checkpoint holds each tensor whole, under its name in the dense GPT: the
weights, and per parameter what the optimizer remembers. So it says nothing
of the ranks that wrote it, and any layout can take its part of it.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from workshop.errors import UserError
from workshop.groups import Groups
from workshop.parallel.placement import COPY, Placement, Shard, placed

WEIGHT = "weight"


class Label(NamedTuple):
    """Which tensor of which parameter, and what it looks like on a rank."""

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    over_tp: str | Shard


def gather(
    parameters: Mapping[str, nn.Parameter],
    placement: Mapping[str, Placement],
    groups: Groups,
    optimizer: Optimizer,
) -> dict[str, Any] | None:
    """Return the dense state on rank 0, on the CPU, and None elsewhere.

    All ranks call it.  Data parallel copies are equal, so those of index 0
    send theirs, tensor by tensor: no rank holds more than its own part and
    the one tensor that travels, and rank 0 the whole.

    Args:
        parameters: this rank's, by their dense names.
        placement: of each of them.
        groups: of the layout.
        optimizer: of these parameters.

    Returns:
        `model`: name -> tensor; `optimizer`: `state`, name -> kind ->
        tensor, and `groups`, the options of each parameter group.
    """
    layout = groups.layout
    mine = []
    if groups.at.dp == 0:
        mine = list(_tensors(parameters, placement, optimizer))
    labels = [label for label, _ in mine]
    everyone: list[list[Label]] = [[] for _ in range(layout.world_size)]
    dist.all_gather_object(everyone, labels)
    if dist.get_rank() > 0:
        for _, tensor in mine:
            dist.send(_bytes(tensor), 0)
        return None
    state: dict[str, dict[str, Tensor]] = {}
    for stage in range(layout.pp):
        owners = [
            layout.rank(pp=stage, dp=0, tp=shard)
            for shard in range(layout.tp)
        ]
        for i, label in enumerate(everyone[owners[0]]):
            shards = [
                mine[i][1].cpu() if rank == 0 else _received(label, rank)
                for rank in owners
            ]
            state.setdefault(label.name, {})[label.kind] = _dense(
                label.over_tp, shards
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
    state: dict[str, Any],
    parameters: Mapping[str, nn.Parameter],
    placement: Mapping[str, Placement],
    groups: Groups,
    optimizer: Optimizer,
) -> None:
    """Load this rank's part of a dense state, weights and optimizer.

    Every rank has the whole `state`, as `gather` returned it, on its CPU;
    the other arguments are those of `gather`.

    Raises:
        UserError: a parameter is missing in it or has another shape.
    """
    numbers, remembered = {}, {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            numbers[parameter] = len(numbers)
    with torch.no_grad():
        for name, parameter in parameters.items():
            over_tp = placed(placement, name).tp
            part = _part(over_tp, state["model"].get(name), groups)
            if part is None or part.shape != parameter.shape:
                shape = "missing" if part is None else tuple(part.shape)
                raise UserError(
                    f"the checkpoint's {name} is {shape} for this rank and "
                    f"the model's {tuple(parameter.shape)}: resume with the "
                    "model that it was made with"
                )
            parameter.copy_(part)
            if parameter in numbers:
                # Cloned: a part may be a view of the file.
                remembered[numbers[parameter]] = {
                    kind: _part(over_tp, tensor, groups).clone()
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
    parameters: Mapping[str, nn.Parameter],
    placement: Mapping[str, Placement],
    optimizer: Optimizer,
) -> Iterator[tuple[Label, Tensor]]:
    """Yield what this rank has to save; another saves a tied copy."""
    for name, parameter in parameters.items():
        lies = placed(placement, name)
        if lies.pp == COPY:
            continue
        kept = optimizer.state.get(parameter, {})
        for kind, value in {WEIGHT: parameter, **kept}.items():
            if isinstance(value, Tensor):
                tensor = value.detach()
                shape = (*tensor.shape,)
                yield Label(name, kind, shape, tensor.dtype, lies.tp), tensor


def _bytes(tensor: Tensor) -> Tensor:
    """Return the tensor as it travels: gloo does not know every dtype."""
    return tensor.cpu().contiguous().view(-1).view(torch.uint8)


def _received(label: Label, rank: int) -> Tensor:
    tensor = torch.empty(label.shape, dtype=label.dtype)
    dist.recv(_bytes(tensor), rank)
    return tensor


def _dense(over_tp: str | Shard, shards: list[Tensor]) -> Tensor:
    """Put the shards of one tensor together; a number has none."""
    if len(shards) == 1 or shards[0].dim() == 0:
        return shards[0]
    return over_tp.whole(shards) if isinstance(over_tp, Shard) else shards[0]


def _part(
    over_tp: str | Shard, dense: Tensor | None, groups: Groups
) -> Tensor | None:
    """Cut this rank's part out of one tensor."""
    if dense is None or dense.dim() == 0 or not isinstance(over_tp, Shard):
        return dense
    return over_tp.part(dense, groups.at.tp, groups.layout.tp)
