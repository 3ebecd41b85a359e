"""A pipeline without tricks: compute, then hand over, then compute again.

A rank has one stage. After each operation it hands its output to a
neighbour, takes what its next operation needs, and goes on when both have
happened. So nothing is in two places at once, and everything waits: that is
what `workshop.parallel.pipeline.executor` improves on, with the same calls.
Which orders of operations survive this, the simulator says
(`sends="blocking"`): GPipe and 1F1B do, and the interleaved schedule, in
which two ranks would each wait for the other to take an output, does not.
"""

from contextlib import nullcontext
from datetime import timedelta
from itertools import zip_longest

import torch
import torch.distributed as dist
from torch import Tensor, nn

from workshop import collectives
from workshop.errors import UserError
from workshop.parallel.pipeline.messages import Message, route_of
from workshop.parallel.pipeline.plan import Plan, forward_only
from workshop.parallel.pipeline.schedule import (
    FORWARD,
    Operation,
    Schedule,
)
from workshop.parallel.pipeline.stages import unwrapped
from workshop.parallel.pipeline.stuck import stuck


class NaivePipeline:
    """One rank of a pipeline, with one stage and blocking messages.

    Args:
        chunks: a list of this rank's one stage, bare or wrapped for data
            parallelism.
        schedule: of all ranks, from `make_schedule`.
        group: the ranks of the pipeline, in the order of the stages.
        shape: of every message, (b, s, h).
        timeout: seconds until a wait fails (gloo); None is torch's default.

    Raises:
        UserError: there are several stages, or the schedule does not fit.
    """

    def __init__(
        self,
        chunks: list[nn.Module],
        schedule: Schedule,
        group: dist.ProcessGroup,
        shape: tuple[int, ...],
        timeout: float | None = None,
    ) -> None:
        if len(chunks) > 1:
            raise UserError(
                "blocking messages hang with several chunks a rank, which "
                "wait for each other in a circle: give each rank one stage, "
                "or take the executor's Pipeline"
            )
        self.chunks, self.schedule = chunks, schedule
        self.group, self.shape = group, shape
        self.timeout = timedelta(seconds=timeout) if timeout else None
        self.rank, self.p = group.rank(), group.size()
        self.route = route_of(schedule)
        self.plan = Plan(schedule, self.rank, self.p, v=1)
        weight = next(chunks[0].parameters())
        self.buffer = {"dtype": weight.dtype, "device": weight.device}

    def forward_backward(
        self, micro_batches: list[tuple[Tensor, Tensor]]
    ) -> Tensor:
        """Accumulate the gradients of a step; return its mean loss.

        `micro_batches` are tokens and targets, both (b, s), the same on
        every rank of the pipeline.  The loss is a scalar on every rank.

        Raises:
            PipelineStuck: a message did not arrive in time.
        """
        return self._run(self.schedule, micro_batches)

    @torch.no_grad()
    def forward(self, micro_batches: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Return the mean loss of a step without computing gradients."""
        return self._run(forward_only(self.schedule), micro_batches)

    def finish_gradients(self) -> None:
        """Give first and last stage the sum of their tied gradients."""
        weight = unwrapped(self.chunks[0]).tied
        if weight is None or weight.grad is None:
            return
        other = self.p - 1 if self.rank == 0 else 0
        theirs = torch.empty_like(weight.grad)
        for work in collectives.exchange(
            self.group, (weight.grad, other, 0), (theirs, other, 0)
        ):
            work.wait()
        weight.grad += theirs

    def close(self) -> None:
        """Do nothing: all messages use the group that was given."""

    def _run(self, schedule: Schedule, micro_batches: list) -> Tensor:
        self.micro_batches = micro_batches
        self.kept: dict[int, tuple[Tensor | None, Tensor]] = {}
        self.trace: list[Operation] = []
        # A loss is never narrower than float32, whatever the weights are.
        wide = torch.promote_types(self.buffer["dtype"], torch.float32)
        self.loss = torch.zeros((), dtype=wide, device=self.buffer["device"])
        mine = schedule[self.rank]
        received = self._hand_over(None, None, mine[0])
        for operation, following in zip_longest(mine, mine[1:]):
            if operation.kind == FORWARD:
                output = self._forward(operation.microbatch, received)
            else:
                output = self._backward(operation, received)
            self.trace.append(operation)
            received = self._hand_over(operation, output, following)
        collectives.broadcast(self.loss, self.group, source=self.p - 1)
        return self.loss

    def _forward(self, number: int, x: Tensor | None) -> Tensor:
        """Run the stage; return its activations, or the last one's loss."""
        tokens, targets = self.micro_batches[number]
        last = self.rank == self.p - 1
        if x is not None:
            x.requires_grad_(torch.is_grad_enabled())
        output = self.chunks[0](
            tokens if x is None else x, targets if last else None
        )
        if last:
            output = output / len(self.micro_batches)
            self.loss += output.detach()
        self.kept[number] = x, output
        return output

    def _backward(
        self, operation: Operation, gradient: Tensor | None
    ) -> Tensor | None:
        """Run backward through it; return the gradient of its input."""
        x, output = self.kept.pop(operation.microbatch)
        last = operation == self.plan.last_backward[0]
        chunk = self.chunks[0]
        local = (
            nullcontext if last else getattr(chunk, "no_sync", nullcontext)
        )
        if output.requires_grad:
            with local():
                output.backward(gradient)
        return None if x is None else x.grad

    def _hand_over(
        self,
        done: Operation | None,
        output: Tensor | None,
        following: Operation | None,
    ) -> Tensor | None:
        """Send the output, receive the next input, wait for both."""
        leaving = done and self.route.outgoing(self.rank, done)
        coming = following and self.route.incoming(self.rank, following)
        sent = received = None
        if leaving:
            number = leaving.needed.microbatch
            sent = output.detach().contiguous(), leaving.receiver, number
        if coming:
            tensor = torch.empty(self.shape, **self.buffer)
            received = tensor, coming.sender, coming.needed.microbatch
        works = collectives.exchange(self.group, sent, received)
        messages = [message for message in (leaving, coming) if message]
        for work, message in zip(works, messages, strict=False):
            self._wait(work, message)
        return received and received[0]

    def _wait(self, work: dist.Work, message: Message) -> None:
        try:
            work.wait(self.timeout) if self.timeout else work.wait()
        except RuntimeError as error:
            raise stuck(
                self.rank, message, self.schedule, "blocking", error
            ) from error
