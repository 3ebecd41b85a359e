"""Where each parameter lies over the ranks, as data.

A model in a layout has a map from the dense name of every parameter that a
rank holds to its `Placement`, which says for each axis how it lies there.
Whatever treats ranks differently reads this map and knows no model: the norm
for clipping, the sums of partial gradients, checkpoints and resharding. A
parameter that is not in the map is an error and never "probably whole".

Later strategies add values and no special cases: under ZeRO the `dp` of a
state is a `Shard` instead of `WHOLE`, and an expert's `ep` is a `Shard`,
so that its gradient is averaged over the copies of the expert alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from workshop.errors import UserError
from workshop.layout import Coordinate

WHOLE = "whole"
"""Every rank of the axis holds all of it, and its whole gradient."""
PARTIAL = "partial"
"""Every rank holds all of it, and the gradient of its own tokens alone."""
OWN = "own"
"""One rank of the axis has it, this one."""
COPY = "copy"
"""This rank has a copy, and another one has the original that counts."""


@dataclass(frozen=True)
class Shard:
    """Each rank of the axis holds another part of one dimension.

    Args:
        dimension: which one, from 0.
        length: of the dense dimension.
        blocks: the dimension is so many equal blocks end to end, and a rank
            has its part of each: 3 for Q, K and V.
        padded: it is dimension 0, filled up with zeros to a multiple of
            the ranks.
    """

    dimension: int
    length: int
    blocks: int = 1
    padded: bool = False

    def part(self, tensor: Tensor, rank: int, size: int) -> Tensor:
        """Return the part of a dense tensor that `rank` of `size` holds.

        It has memory of its own.

        Raises:
            UserError: the dimension is not divisible by `size`.
        """
        if self.padded:
            rows = -(-self.length // size)
            part = tensor[rank * rows : (rank + 1) * rows]
            missing = rows - part.shape[0]
            # The last dimension comes first in F.pad.
            ends = (0, 0) * (tensor.dim() - 1) + (0, missing)
            return F.pad(part, ends) if missing else part.clone()
        length = tensor.shape[self.dimension] // self.blocks
        if length % size:
            raise UserError(
                f"a dimension of {length} is not divisible by {size} ranks: "
                "choose a size that divides it"
            )
        whole = tensor.unflatten(self.dimension, (self.blocks, size, -1))
        return (
            whole.select(self.dimension + 1, rank)
            .flatten(self.dimension, self.dimension + 1)
            .clone()
        )

    def whole(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the dense tensor of all ranks' parts, in their order."""
        if self.padded:
            return torch.cat(list(parts))[: self.length].clone()
        split = [
            p.unflatten(self.dimension, (self.blocks, -1)) for p in parts
        ]
        return torch.cat(split, self.dimension + 1).flatten(
            self.dimension, self.dimension + 1
        )


@dataclass(frozen=True)
class Placement:
    """How one parameter lies over each axis of a layout.

    Args:
        dp: over the data parallel ranks: `WHOLE`.
        tp: over the tensor parallel ranks: `WHOLE`, `PARTIAL` or a `Shard`.
        pp: over the stages: `OWN` or `COPY`.
        ep: over the expert parallel ranks: `WHOLE`.
    """

    dp: str | Shard = WHOLE
    tp: str | Shard = WHOLE
    pp: str = OWN
    ep: str | Shard = WHOLE

    def counts_at(self, at: Coordinate) -> bool:
        """Whether the elements on this rank are its own in a sum over all.

        Over the ranks of a copy of the model each element counts once: a
        shard where it is, what is whole on the first rank of the axis, and
        a copy nowhere.
        """
        return self.pp == OWN and (isinstance(self.tp, Shard) or at.tp == 0)


def placed(placement: Mapping[str, Placement], name: str) -> Placement:
    """Return where a parameter lies.

    Raises:
        KeyError: it has no placement, which is a mistake in the code that
            made it.
    """
    if name not in placement:
        raise KeyError(
            f"the parameter {name} has no placement: whatever creates a "
            "parameter says how it lies over the ranks"
        )
    return placement[name]
