"""Process groups from the sizes of the parallel dimensions.

A rank has a coordinate on each axis: tensor (tp), data (dp), pipeline (pp).
Tensor parallelism is innermost, so its ranks are neighbours and share a
node: it communicates inside every layer, forward and backward, and needs
NVLink. Data parallelism comes next: one all-reduce a step, and it can hide
under backward. Pipeline parallelism is outermost: it sends only activations
between neighbouring stages, which a network between nodes can carry
(Narayanan et al. 2021, "Efficient Large-Scale Language Model Training on
GPU Clusters Using Megatron-LM", section 3.2). Expert parallelism (ep) adds
no ranks: it spreads the experts over ep neighbours of a data parallel group
(Rajbhandari et al. 2022, "DeepSpeed-MoE", section 4).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch.distributed as dist

from workshop.errors import UserError

AXES = ("dp", "tp", "pp", "ep", "expert_dp")


class Coordinate(NamedTuple):
    """Where a rank stands: its 0-based index on each axis."""

    pp: int
    dp: int
    tp: int


@dataclass(frozen=True)
class ParallelDims:
    """How many ranks share the work in each way; `dp * tp * pp` in all.

    Args:
        dp: data parallel size, the number of copies of the model.
        tp: tensor parallel size, the ranks that share each layer.
        pp: pipeline parallel size, the number of stages.
        ep: expert parallel size, the ranks that share one set of experts;
            it divides `dp`.

    Raises:
        UserError: a size is below 1, or `ep` does not divide `dp`.
    """

    dp: int = 1
    tp: int = 1
    pp: int = 1
    ep: int = 1

    def __post_init__(self) -> None:
        for name in ("dp", "tp", "pp", "ep"):
            size = getattr(self, name)
            if size < 1:
                raise UserError(
                    f"{name}={size} is not a number of ranks: "
                    f"give {name} a size of 1 or more."
                )
        if self.dp % self.ep:
            raise UserError(
                f"dp={self.dp} is not divisible by ep={self.ep}, and experts "
                "are spread over data parallel ranks: choose an ep that "
                f"divides {self.dp}."
            )

    @classmethod
    def for_world(
        cls, world_size: int, tp: int = 1, pp: int = 1, ep: int = 1
    ) -> "ParallelDims":
        """Return the layout whose data parallel size fills `world_size`.

        Raises:
            UserError: `world_size` is not divisible by `tp * pp`, or the
                data parallel size is not divisible by `ep`.
        """
        model = cls(dp=ep, tp=tp, pp=pp, ep=ep).model_size
        if world_size < 1 or world_size % model:
            raise UserError(
                f"world size {world_size} is not divisible by tp={tp} × "
                f"pp={pp} = {model}: launch a multiple of {model} ranks, or "
                "choose sizes whose product divides the world size."
            )
        return cls(dp=world_size // model, tp=tp, pp=pp, ep=ep)

    @property
    def model_size(self) -> int:
        """The ranks that hold one copy of the model."""
        return self.tp * self.pp

    @property
    def world_size(self) -> int:
        """The ranks of the whole layout."""
        return self.dp * self.model_size

    def check(self, world_size: int) -> None:
        """Refuse a world of another size than the layout's.

        Raises:
            UserError: naming the sizes and what to change.
        """
        if world_size != self.world_size:
            raise UserError(
                f"dp={self.dp} × tp={self.tp} × pp={self.pp} needs "
                f"{self.world_size} ranks and {world_size} were launched: "
                f"launch {self.world_size}, or change the sizes."
            )

    def coordinate(self, rank: int) -> Coordinate:
        """Return the coordinate of a global rank."""
        rest, tp = divmod(rank, self.tp)
        pp, dp = divmod(rest, self.dp)
        return Coordinate(pp, dp, tp)

    def rank(self, at: Coordinate) -> int:
        """Return the global rank at a coordinate."""
        return (at.pp * self.dp + at.dp) * self.tp + at.tp

    def ranks(self, axis: str) -> list[list[int]]:
        """Return the groups of an axis, each a sorted list of global ranks.

        Args:
            axis: one of `AXES`. The ranks of a `dp`, `tp` or `pp` group
                differ in that index alone. An `ep` group holds every expert
                once; an `expert_dp` group holds the copies of one rank's
                experts.

        The groups of an axis are disjoint and cover the world.
        """
        groups: dict[tuple[int, ...], list[int]] = {}
        for rank in range(self.world_size):
            at = self.coordinate(rank)
            shared = {
                "dp": (at.pp, at.tp),
                "tp": (at.pp, at.dp),
                "pp": (at.dp, at.tp),
                "ep": (at.pp, at.tp, at.dp // self.ep),
                "expert_dp": (at.pp, at.tp, at.dp % self.ep),
            }[axis]
            groups.setdefault(shared, []).append(rank)
        return list(groups.values())


@dataclass(frozen=True)
class Groups:
    """The process groups that this rank belongs to, to be passed on."""

    dims: ParallelDims
    at: Coordinate
    dp: dist.ProcessGroup
    tp: dist.ProcessGroup
    pp: dist.ProcessGroup


def make_groups(dims: ParallelDims) -> Groups:
    """Create the groups of a layout and return those of this rank.

    Every rank of the job calls this, once: making a group is collective,
    so all ranks make all groups, in the same order, their own or not.

    Raises:
        UserError: the job has another number of ranks than the layout.
    """
    dims.check(dist.get_world_size())

    def group(axis: str) -> dist.ProcessGroup:
        ranks = dims.ranks(axis)
        if len(ranks) == 1:
            return dist.group.WORLD  # connected already
        return dist.new_subgroups_by_enumeration(ranks)[0]

    made = {axis: group(axis) for axis in ("dp", "tp", "pp")}
    return Groups(dims, dims.coordinate(dist.get_rank()), **made)
