"""Communicators for the messages of a pipeline, one for each channel.

NCCL runs the messages between two ranks of one communicator one after the
other, sends and receives alike: a receive that is posted early would hold up
every send behind it. So each channel of `pipeline_messages` has a
communicator of its own: activations travel in one, gradients in another, and
in the interleaved schedule what wraps around in two more. Between two ranks
a channel has messages in one direction only, and both sides post them in the
order in which the sender's schedule computes them; then no receive can hold
up anything but later receives of the same kind, and no order of the host can
make two ranks wait for each other.
"""

from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from workshop import collectives
from workshop.parallel.pipeline.messages import Message
from workshop.parallel.pipeline.schedule import BACKWARD, FORWARD, Schedule


class Channels:
    """The communicators of this rank's pipeline.

    Args:
        group: the pipeline's ranks, in the order of the stages.
        v: chunks a rank; more than one makes messages wrap around.
        device: where the messages are.
        timeout: seconds until a wait fails (gloo); None is torch's default.

    Every rank of the job calls this at the same time, because making a
    group is collective. Connections are made here and not by the first
    message, where the two hosts could block each other.
    """

    def __init__(
        self,
        group: dist.ProcessGroup,
        v: int,
        device: torch.device,
        timeout: float | None = None,
    ) -> None:
        self.v = v
        pipelines = pipelines_of(group)
        limit = None if timeout is None else timedelta(seconds=timeout)
        wrapping = (False, True) if v > 1 else (False,)
        self.groups = {
            (kind, wraps): make_group(pipelines, limit)
            for kind in (FORWARD, BACKWARD)
            for wraps in wrapping
        }
        ends = [(ranks[0], ranks[-1]) for ranks in pipelines]
        self.ends = make_group(ends, limit)
        for channel in self.groups:
            self._connect(*channel, device)

    def open(self, schedule: Schedule, shape: tuple, dtype: object) -> None:
        """Do nothing: a communicator takes messages of any size."""

    def send(self, message: Message, tensor: Tensor) -> dist.Work:
        """Start to send a message of this rank."""
        group = self.groups[message.channel]
        return collectives.send(
            tensor, group, message.receiver, self._tag(message)
        )

    def receive(self, message: Message, tensor: Tensor) -> dist.Work:
        """Start to receive a message for this rank into `tensor`."""
        group = self.groups[message.channel]
        return collectives.receive(
            tensor, group, message.sender, self._tag(message)
        )

    def close(self) -> None:
        """Give the communicators back; all ranks of the job call it."""
        for group in (*self.groups.values(), self.ends):
            if group is not None:
                dist.destroy_process_group(group)

    def _tag(self, message: Message) -> int:
        return message.needed.microbatch * self.v + message.needed.chunk

    def _connect(self, kind: str, wraps: bool, device: torch.device) -> None:
        """Send nothing much once over every link, from the first on."""
        group = self.groups[kind, wraps]
        rank, p = group.rank(), group.size()
        links = [(p - 1, 0)] if wraps else [(r, r + 1) for r in range(p - 1)]
        nothing = torch.zeros(1, device=device)
        for lower, upper in links:
            ends = (lower, upper) if kind == FORWARD else (upper, lower)
            if rank == ends[0]:
                dist.isend(nothing, group=group, group_dst=ends[1]).wait()
            elif rank == ends[1]:
                dist.irecv(nothing, group=group, group_src=ends[0]).wait()


def pipelines_of(group: dist.ProcessGroup) -> list[tuple[int, ...]]:
    """Return the ranks of every pipeline; collective over the job."""
    mine = dist.get_process_group_ranks(group)
    everyone: list[list[int]] = [[]] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return sorted({tuple(ranks) for ranks in everyone})


def make_group(
    enumerated: list[tuple[int, ...]], limit: timedelta | None
) -> dist.ProcessGroup | None:
    """Create a group of each list of ranks; return this rank's, if any."""
    made = [dist.new_group(list(ranks), limit) for ranks in enumerated]
    for ranks, group in zip(enumerated, made, strict=True):
        if dist.get_rank() in ranks:
            return group
    return None
