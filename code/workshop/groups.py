"""Process groups from a layout: each axis of `workshop.layout` has one."""

from dataclasses import dataclass

import torch.distributed as dist

from workshop.layout import Coordinate, Layout


@dataclass(frozen=True)
class Groups:
    """The process groups that this rank belongs to, to be passed on."""

    layout: Layout
    at: Coordinate
    dp: dist.ProcessGroup
    tp: dist.ProcessGroup
    pp: dist.ProcessGroup


def make_groups(layout: Layout) -> Groups:
    """Create the groups of a layout and return those of this rank.

    Every rank of the job calls this, once: making a group is collective,
    so all ranks make all groups, in the same order, their own or not.

    Raises:
        UserError: the job has another number of ranks than the layout.
    """
    layout.check_world(dist.get_world_size())

    def group(axis: str) -> dist.ProcessGroup:
        ranks = layout.ranks(axis)
        if len(ranks) == 1:
            return dist.group.WORLD  # connected already
        return dist.new_subgroups_by_enumeration(ranks)[0]

    made = {axis: group(axis) for axis in ("dp", "tp", "pp")}
    return Groups(layout, layout.coordinate(dist.get_rank()), **made)
