"""Messages of a pipeline by copy engines: no multiprocessor waits for one.

A receive of NCCL is a kernel that spins on multiprocessors until its message
comes, and takes them from the products that run meanwhile. Here the sender's
copy engine writes into a slot of the receiver's memory and raises a flag,
both on a stream of their own; the receiver looks at the flag when it needs
the message, on the stream that would have to wait anyway, copies it out and
gives the slot back. GPUs of one host with peer access only.
"""

from datetime import timedelta

import torch
import torch.distributed as dist
import torch.distributed._symmetric_memory as symmetric_memory
from torch import Tensor

from workshop import collectives
from workshop.parallel.pipeline.channels import make_group, pipelines_of
from workshop.parallel.pipeline.messages import Message, route_of
from workshop.parallel.pipeline.schedule import BACKWARD, FORWARD, Schedule

SLOTS = 4
"""The messages of a channel that may be on their way, at least."""

PATIENCE = 600.0
"""Seconds after which a wait for a flag ends the program, as NCCL's."""

CHANNELS = [(kind, wraps) for kind in (FORWARD, BACKWARD)
            for wraps in (False, True)]  # fmt: skip


class Sent:
    """A message under way; like `dist.Work`, `wait` holds the stream."""

    def __init__(self, event: torch.cuda.Event) -> None:
        self.event = event

    def is_completed(self) -> bool:
        """Tell whether the copy is done and its source may be freed."""
        return self.event.query()

    def wait(self) -> None:
        """Let the current stream wait for the copy."""
        torch.cuda.current_stream().wait_event(self.event)


class Awaited:
    """A message to come; `wait` queues the wait and the copy out."""

    def __init__(
        self, owner: "CopyChannels", message: Message, slot: int, to: Tensor
    ) -> None:
        self.owner, self.message = owner, message
        self.slot, self.to = slot, to

    def wait(self) -> None:
        """Let the current stream wait for the message and take it."""
        self.owner.take_out(self.message, self.slot, self.to)


class CopyChannels:
    """The slots of this rank's pipeline; the interface of `Channels`.

    Args:
        group: the pipeline's ranks, in the order of the stages.
        device: a CUDA device, which `peer_memory.available` has approved.
        timeout: seconds until a wait for a flag ends the program.

    Every rank of the job calls this at the same time.
    """

    def __init__(
        self,
        group: dist.ProcessGroup,
        device: torch.device,
        timeout: float | None = None,
    ) -> None:
        self.group, self.device = group, device
        self.patience = int(1000 * (timeout or PATIENCE))
        limit = None if timeout is None else timedelta(seconds=timeout)
        ends = [(r[0], r[-1]) for r in pipelines_of(group)]
        self.ends = make_group(ends, limit)
        self.stream = torch.cuda.Stream(device)
        self.slots, self.shape, self.dtype = 0, (), torch.float32

    def open(
        self, schedule: Schedule, shape: tuple[int, ...], dtype: torch.dtype
    ) -> None:
        """Make room for the messages of a step, where there is not enough.

        Collective over the pipeline; between steps only.
        """
        slots = max(SLOTS, 1 + most_overtaken(schedule))
        same = (tuple(shape), dtype) == (self.shape, self.dtype)
        if same and slots <= self.slots:
            return
        # Nobody writes into the old slots once all ranks are here.
        torch.cuda.synchronize(self.device)
        self.slots, self.shape, self.dtype = slots, tuple(shape), dtype
        self.room = symmetric_memory.empty(
            (len(CHANNELS), slots, *shape), dtype=dtype, device=self.device
        )
        self.handle = symmetric_memory.rendezvous(self.room, self.group)
        self.remote = {
            peer: self.handle.get_buffer(peer, self.room.shape, dtype)
            for peer in range(self.group.size())
        }
        self.count = dict.fromkeys(
            [(what, c) for what in ("sent", "due") for c in CHANNELS], 0
        )

    def send(self, message: Message, tensor: Tensor) -> Sent:
        """Start to copy a message of this rank into the receiver's slot."""
        collectives.record("send", tensor, self.group)
        number = self._number("sent", message)
        slot = number % self.slots
        flag, freed = self._flags(message, slot)
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            if number >= self.slots:
                self.handle.wait_signal(
                    message.receiver, freed, self.patience
                )
            place = CHANNELS.index(message.channel)
            self.remote[message.receiver][place, slot].copy_(
                tensor, non_blocking=True
            )
            self.handle.put_signal(message.receiver, flag, self.patience)
            event = torch.cuda.Event()
            event.record(self.stream)
        return Sent(event)

    def receive(self, message: Message, tensor: Tensor) -> Awaited:
        """Note which slot the next message of a channel will be in."""
        collectives.record("receive", tensor, self.group)
        number = self._number("due", message)
        return Awaited(self, message, number % self.slots, tensor)

    def take_out(self, message: Message, slot: int, to: Tensor) -> None:
        """Queue the wait for a message, its copy, and the slot's return."""
        flag, freed = self._flags(message, slot)
        self.handle.wait_signal(message.sender, flag, self.patience)
        to.copy_(self.room[CHANNELS.index(message.channel), slot])
        self.handle.put_signal(message.sender, freed, self.patience)

    def close(self) -> None:
        """Give the communicator back; all ranks of the job call it."""
        if self.ends is not None:
            dist.destroy_process_group(self.ends)

    def _number(self, what: str, message: Message) -> int:
        """Count the messages of a channel, over all steps."""
        number = self.count[what, message.channel]
        self.count[what, message.channel] += 1
        return number

    def _flags(self, message: Message, slot: int) -> tuple[int, int]:
        """Return the flags of a slot: filled, and given back."""
        one = CHANNELS.index(message.channel) * self.slots + slot
        return one, one + len(CHANNELS) * self.slots


def most_overtaken(schedule: Schedule) -> int:
    """Return by how many places a rank may need a message out of turn.

    The slots of a channel are filled in the sender's order. With as many
    slots as this and one more, the message that is needed has always room.
    """
    route, most = route_of(schedule), 0
    for rank, operations in enumerate(schedule):
        arrivals: dict[tuple, list[Message]] = {}
        for message in route.arrivals(schedule, rank):
            arrivals.setdefault(message.channel, []).append(message)
        for operation in operations:
            if message := route.incoming(rank, operation):
                waiting = arrivals[message.channel]
                most = max(most, waiting.index(message))
                waiting.remove(message)
    return most
