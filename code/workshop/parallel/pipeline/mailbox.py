"""The messages of one rank of a pipeline, posted ahead.

A receive waits in memory of its own while the rank computes, and a send
holds nobody up.
"""

from collections import defaultdict, deque

import torch
import torch.distributed as dist
from torch import Tensor

from workshop.parallel.pipeline.channels import Channels
from workshop.parallel.pipeline.messages import Message
from workshop.parallel.pipeline.plan import Plan
from workshop.parallel.pipeline.schedule import Operation
from workshop.parallel.pipeline.stuck import stuck


class Mailbox:
    """Send and receive what the operations of this rank hand over.

    Args:
        plan: of this rank.
        channels: `Channels` or `CopyChannels`.
        shape: of every message.
        dtype: of every message.
        device: where the messages are.
    """

    def __init__(
        self,
        plan: Plan,
        channels: Channels,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.plan, self.channels = plan, channels
        if channels is not None:
            channels.open(plan.schedule, shape, dtype)
        self.rank, self.route = plan.rank, plan.route
        self.buffer = {"size": shape, "dtype": dtype, "device": device}
        self.due: dict[tuple, deque[Message]] = defaultdict(deque)
        for message in plan.arrivals:
            self.due[message.channel].append(message)
        self.posted: dict[Message, Tensor] = {}
        self.waiting: dict[Message, dist.Work] = {}
        self.sent: list[tuple[Message, dist.Work, Tensor]] = []

    def expect(self, operation: Operation) -> None:
        """Post the receive that `operation` needs.

        Receives of a channel are posted in the sender's order, by which
        NCCL matches them; so what comes before it is posted as well.
        """
        message = self.route.incoming(self.rank, operation)
        if message is None:
            return
        while message not in self.posted:
            self._post(self.due[message.channel].popleft())

    def take(self, operation: Operation) -> Tensor | None:
        """Return what `operation` needs, waiting for it if need be."""
        message = self.route.incoming(self.rank, operation)
        if message is None:
            return None
        # Waiting twice for one message would be waiting for another.
        if work := self.waiting.pop(message, None):
            self._wait(work, message)
        return self.posted.pop(message)

    def put(self, operation: Operation, tensor: Tensor) -> None:
        """Start to send the result of `operation`."""
        message = self.route.outgoing(self.rank, operation)
        if message is None:
            return
        self._check(operation, tensor)
        tensor = tensor.detach().contiguous()
        work = self.channels.send(message, tensor)
        # A tensor must live until it is sent, and no longer.
        self.sent = [entry for entry in self.sent if not _done(entry)]
        self.sent.append((message, work, tensor))

    def flush(self) -> None:
        """Wait until all results are sent."""
        for message, work, _ in self.sent:
            self._wait(work, message)
        self.sent.clear()

    def _post(self, message: Message) -> None:
        tensor = torch.empty(**self.buffer)
        self.waiting[message] = self.channels.receive(message, tensor)
        self.posted[message] = tensor

    def _check(self, operation: Operation, tensor: Tensor) -> None:
        due = self.buffer
        if tuple(tensor.shape) != due["size"] or tensor.dtype != due["dtype"]:
            raise ValueError(
                f"{operation} of rank {self.rank} hands over "
                f"{tuple(tensor.shape)} of {tensor.dtype} and the pipeline "
                f"was built for {due['size']} of {due['dtype']}"
            )

    def _wait(self, work: dist.Work, message: Message) -> None:
        try:
            work.wait()
        except RuntimeError as error:
            raise stuck(
                self.rank, message, self.plan.schedule, "buffered", error
            ) from error


def _done(entry: tuple[Message, dist.Work, Tensor]) -> bool:
    return entry[1].is_completed()
