"""Dense parameters to the parts of the ranks, and back.

What a rank holds of a tensor is a function of the parameter's dense name, a
plan, the rank and the group's size. Any tensor of the parameter's shape goes
the same way: weight, gradient, moment of the optimizer.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor

from workshop.errors import UserError

PLAN: dict[str, str] = {
    "embedding.token": "vocab",
    "blocks.*.attention.qkv": "column_qkv",
    "blocks.*.attention.output": "row",
    "blocks.*.mlp.up": "column",
    "blocks.*.mlp.down": "row",
    "head": "head",
}
"""How each module of GPT is split; what is not named is replicated.

`column` splits outputs and `row` inputs. `column_qkv` splits the outputs of
each of Q, K and V, so that a rank gets whole heads with all three. `vocab`
splits the rows of the vocabulary, padded to a multiple of the ranks. `head`
uses the part of the tied embedding and splits nothing of its own.
"""


def style_of(path: str, plan: Mapping[str, str]) -> str:
    """Return the style of a module, "replicated" where no pattern fits."""
    for pattern, style in plan.items():
        if fnmatchcase(path, pattern):
            return style
    return "replicated"


def is_sharded(name: str, plan: Mapping[str, str]) -> bool:
    """Tell whether each rank holds another part of the parameter `name`."""
    path, _, leaf = name.rpartition(".")
    style = style_of(path, plan)
    # A row-parallel layer adds its bias after the sum: all of it.
    return style in ("vocab", "column", "column_qkv") or (
        style == "row" and leaf == "weight"
    )


def shard_tensor(
    name: str, tensor: Tensor, plan: Mapping[str, str], rank: int, size: int
) -> Tensor:
    """Return the part of a dense tensor that a rank holds.

    Args:
        name: the parameter's dense name.
        tensor: of the dense parameter's shape.
        rank: 0-based place in the group.
        size: how many ranks share the parameter.

    Returns:
        A tensor of its own memory if it is a part, else `tensor` itself.

    Raises:
        UserError: the dimension to split is not divisible by `size`.
    """
    if size == 1 or not is_sharded(name, plan):
        return tensor
    style = style_of(name.rpartition(".")[0], plan)
    if style == "vocab":
        rows = padded(tensor.shape[0], size) // size
        part = tensor[rank * rows : (rank + 1) * rows]
        missing = rows - part.shape[0]
        return F.pad(part, (0, 0, 0, missing)) if missing else part.clone()
    dimension = 1 if style == "row" else 0
    thirds = 3 if style == "column_qkv" else 1
    _divisible(name, tensor.shape[dimension] // thirds, size)
    whole = tensor.unflatten(dimension, (thirds, size, -1))
    return (
        whole.select(dimension + 1, rank)
        .flatten(dimension, dimension + 1)
        .clone()
    )


def unshard_tensor(
    name: str,
    tensors: Sequence[Tensor],
    plan: Mapping[str, str],
    vocabulary: int,
) -> Tensor:
    """Return the dense tensor of all ranks' parts, in the ranks' order.

    Args:
        vocabulary: V without the padding, which is cut off.

    The inverse of `shard_tensor`.
    """
    if len(tensors) == 1 or not is_sharded(name, plan):
        return tensors[0]
    style = style_of(name.rpartition(".")[0], plan)
    if style == "vocab":
        return torch.cat(list(tensors))[:vocabulary].clone()
    dimension = 1 if style == "row" else 0
    thirds = 3 if style == "column_qkv" else 1
    parts = [part.unflatten(dimension, (thirds, -1)) for part in tensors]
    return torch.cat(parts, dimension + 1).flatten(dimension, dimension + 1)


def shard_state_dict(
    state: Mapping[str, Tensor],
    plan: Mapping[str, str],
    rank: int,
    size: int,
) -> dict[str, Tensor]:
    """Return a rank's part of a dense state; see `shard_tensor`."""
    return {
        name: shard_tensor(name, tensor, plan, rank, size)
        for name, tensor in state.items()
    }


def unshard_state_dict(
    states: Sequence[Mapping[str, Tensor]],
    plan: Mapping[str, str],
    vocabulary: int,
) -> dict[str, Tensor]:
    """Return the dense state of all ranks' parts; see `unshard_tensor`."""
    return {
        name: unshard_tensor(
            name, [state[name] for state in states], plan, vocabulary
        )
        for name in states[0]
    }


def padded(vocabulary: int, size: int) -> int:
    """Return the vocabulary rounded up to a multiple of the ranks."""
    return -(-vocabulary // size) * size


def _divisible(name: str, length: int, size: int) -> None:
    if length % size:
        raise UserError(
            f"{name} has a dimension of {length}, which is not divisible by "
            f"the tensor parallel size {size}: choose a size that divides it."
        )
