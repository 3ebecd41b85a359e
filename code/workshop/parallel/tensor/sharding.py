"""Which parameters of the dense model tensor parallelism splits, and how.

What a rank holds of a tensor is a function of the parameter's dense name, a
plan, the rank and the group's size. Any tensor of the parameter's shape goes
the same way: weight, gradient, moment of the optimizer.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor

from workshop.errors import UserError
from workshop.parallel.placement import Shard

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
uses the part of the tied embedding, or splits the rows of its own weight.
"""


def style_of(path: str, plan: Mapping[str, str]) -> str:
    """Return the style of a module, "replicated" where no pattern fits."""
    for pattern, style in plan.items():
        if fnmatchcase(path, pattern):
            return style
    return "replicated"


def shard_of(
    name: str, shape: Sequence[int], plan: Mapping[str, str]
) -> Shard | None:
    """Return how the parameter `name` is split, None if it is replicated.

    `shape` is that of the dense parameter.
    """
    path, _, leaf = name.rpartition(".")
    style = style_of(path, plan)
    if style == "vocab" or (style, leaf) == ("head", "weight"):
        return Shard(0, shape[0], padded=True)
    if style == "column":
        return Shard(0, shape[0])
    if style == "column_qkv":
        return Shard(0, shape[0], blocks=3)
    # A row-parallel layer adds its bias after the sum: all of it.
    if (style, leaf) == ("row", "weight"):
        return Shard(1, shape[1])
    return None


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
    shard = shard_of(name, tensor.shape, plan)
    if size == 1 or shard is None:
        return tensor
    try:
        return shard.part(tensor, rank, size)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
