"""Run a pipeline schedule: any schedule, over point-to-point messages.

`Pipeline` executes the operations of this rank in their order, as
`NaivePipeline` does; who sends what to whom follows from the schedule.
Before an operation computes, the receive of the next one is posted, and its
output is sent while the rank goes on, so that messages travel under
computation in both directions.

Inside a host with NVLink copy engines carry them (`copies`). NCCL's receive
occupies the GPU while it waits: the host must not wait for the device
meanwhile, and multiprocessors are missing in the computation. So no receive
is posted early whose message cannot come early, because it needs the very
operation that is about to run; and none at all in the first step, in which
kernels are compiled and tuned and the host does wait::

    chunks = make_stages(GPT(config), config, group.rank(), p)
    schedule = make_schedule("1f1b", p, m)
    pipeline = Pipeline(chunks, schedule, group, shape=(b, s, h))
    loss = pipeline.forward_backward(micro_batches)
    pipeline.finish_gradients()
"""

from contextlib import AbstractContextManager, nullcontext
from itertools import zip_longest

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.profiler import record_function

from workshop import collectives
from workshop.data.counted import weighed
from workshop.errors import UserError
from workshop.parallel.peer_memory import available
from workshop.parallel.pipeline.channels import Channels
from workshop.parallel.pipeline.clock import PipelineClock
from workshop.parallel.pipeline.mailbox import Mailbox
from workshop.parallel.pipeline.plan import Plan, forward_only
from workshop.parallel.pipeline.schedule import (
    FORWARD,
    Operation,
    Schedule,
)
from workshop.parallel.pipeline.stages import unwrapped
from workshop.parallel.pipeline.timeline import Timed

MicroBatches = list[tuple[Tensor, Tensor]]

TRAINING, EVALUATION = "training", "evaluation"


class Pipeline:
    """One rank of a pipeline: its chunks, its operations, its messages.

    Args:
        chunks: this rank's stages, chunk 0 first, on their device, bare or
            wrapped for data parallelism (`NaiveDataParallel`,
            `OverlappedDataParallel`): then the last backward pass of each
            chunk, and only that, runs outside its `no_sync()`.
        schedule: of all ranks of `group`, from `make_schedule`.
        group: the ranks of the pipeline, in the order of the stages.
        shape: of every message: (b, s, h), or (b, s/t, h) under sequence
            parallelism over t ranks.
        timeout: seconds until a wait for a message fails (gloo, copies).
        copies: send by copy engines, see `copies`; None does so wherever
            all ranks of the job can, which one pipeline decides for all.
        align: start the clocks of all ranks together in every step, so that
            their traces can be drawn side by side.

    Attributes:
        trace: the operations of the last step in the order executed.

    Every rank of the job, of this pipeline or another, makes its `Pipeline`
    at the same time.

    Raises:
        UserError: the schedule is for another number of ranks or chunks, or
            is not complete, or can never finish.
    """

    def __init__(
        self,
        chunks: list[nn.Module],
        schedule: Schedule,
        group: dist.ProcessGroup,
        shape: tuple[int, ...],
        timeout: float | None = None,
        align: bool = False,
        copies: bool | None = None,
    ) -> None:
        self.chunks, self.group, self.shape = chunks, group, shape
        self.align = align
        self.rank, self.p, self.v = group.rank(), group.size(), len(chunks)
        self.reorder(schedule)
        # The first step of either kind compiles and tunes kernels.
        self.warm: set[str] = set()
        parameter = next(chunks[0].parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self.channels = None
        if self.p > 1:
            self.channels = self._connect(timeout, copies)

    def _connect(
        self, timeout: float | None, copies: bool | None
    ) -> Channels:
        """Return this pipeline's way to send messages."""
        can = copies is not False and available(self.group, self.device)
        answers: list = [None] * dist.get_world_size()
        dist.all_gather_object(answers, can)
        if all(answers):
            from workshop.parallel.pipeline.copies import CopyChannels

            return CopyChannels(self.group, self.device, timeout)
        if copies:
            raise UserError(
                "copy engines move messages between GPUs of one host with "
                "peer access, and these ranks have none: leave copies out"
            )
        return Channels(self.group, self.v, self.device, timeout)

    def reorder(self, schedule: Schedule) -> None:
        """Run another schedule from now on, with other micro-batches or not.

        Raises `UserError` as the constructor does.
        """
        self.plans = {
            TRAINING: Plan(schedule, self.rank, self.p, self.v),
            EVALUATION: Plan(
                forward_only(schedule), self.rank, self.p, self.v
            ),
        }

    def forward_backward(
        self,
        micro_batches: MicroBatches,
        autocast: torch.dtype | None = None,
        shares: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> Tensor:
        """Accumulate the gradients of a step; return its mean loss.

        Args:
            micro_batches: num_microbatches of (tokens, targets), both
                (b, s), the same on every rank of the pipeline: the first
                stage reads the tokens, the last one the targets.
            autocast: compute under autocast to this dtype.
            shares: (m,) of the micro-batches in the mean; None weighs them
                alike.
            scale: of the gradients, a scalar; None is 1.

        The loss is the mean over the micro-batches, on every rank.  On CUDA
        everything is only queued.

        Raises:
            UserError: another number of micro-batches than the schedule's.
            PipelineStuck: a message did not arrive in time.
        """
        self.scale = scale
        return self._run(TRAINING, micro_batches, autocast, shares)

    @torch.no_grad()
    def forward(
        self,
        micro_batches: MicroBatches,
        autocast: torch.dtype | None = None,
        shares: Tensor | None = None,
    ) -> Tensor:
        """Return the mean loss of a step without computing gradients.

        The arguments and the errors are those of `forward_backward`.
        """
        return self._run(EVALUATION, micro_batches, autocast, shares)

    def finish_gradients(self) -> None:
        """Sum the tied embedding's gradient over first and last stage.

        Call it after data parallelism has averaged those of the chunks.
        """
        for chunk in self.chunks:
            weight = unwrapped(chunk).tied
            if weight is not None and weight.grad is not None:
                collectives.all_reduce(weight.grad, self.channels.ends)

    def trace_times(self) -> list[Timed]:
        """Return the last step's operations with their times in seconds.

        Waiting for messages is not in them, and they count from the start of
        the step. On a GPU this waits for the device.
        """
        return self.clock.times()

    def close(self) -> None:
        """Give the communicators back; all ranks of the job call it."""
        if self.channels is not None:
            self.channels.close()

    def _run(
        self,
        kind: str,
        micro_batches: MicroBatches,
        autocast: torch.dtype | None,
        shares: Tensor | None,
    ) -> Tensor:
        plan = self.plans[kind]
        if len(micro_batches) != plan.num_microbatches:
            raise UserError(
                f"{len(micro_batches)} micro-batches came and the schedule "
                f"is for {plan.num_microbatches}: make the schedule for as "
                "many as a step has"
            )
        self.micro_batches, self.autocast = micro_batches, autocast
        self.share, self.shares = 1 / plan.num_microbatches, shares
        dtype = autocast or self.dtype
        # A loss is never narrower than float32, whatever the weights are.
        self.loss = torch.zeros(
            (),
            dtype=torch.promote_types(dtype, torch.float32),
            device=self.device,
        )
        self.saved: dict[tuple[int, int], tuple] = {}
        self.trace: list[Operation] = []
        self.clock = PipelineClock(
            self.device, self.group if self.align else None
        )
        mail = Mailbox(plan, self.channels, self.shape, dtype, self.device)
        ahead = kind in self.warm
        operations = plan.operations
        mail.expect(operations[0])
        for operation, following in zip_longest(operations, operations[1:]):
            if ahead and following in plan.early:
                mail.expect(following)
            mail.put(operation, self._execute(operation, mail))
            if following:
                mail.expect(following)
        mail.flush()
        if self.p > 1:
            collectives.broadcast(self.loss, self.group, source=self.p - 1)
        self.warm.add(kind)
        return self.loss

    def _execute(self, operation: Operation, mail: Mailbox) -> Tensor | None:
        """Run an operation once its input has come; return its result."""
        received = mail.take(operation)
        start = self.clock.mark()
        run = self._forward if operation.kind == FORWARD else self._backward
        with record_function(str(operation)):
            output = run(operation, received)
        self.clock.add(operation, start)
        self.trace.append(operation)
        return output

    def _forward(self, operation: Operation, x: Tensor | None) -> Tensor:
        """Run a chunk; return its activations, or the last one's loss."""
        tokens, targets = self.micro_batches[operation.microbatch]
        last = self.rank == self.p - 1 and operation.chunk == self.v - 1
        training = torch.is_grad_enabled()
        if x is not None and training:
            x.requires_grad_()
        narrow = self.autocast
        with torch.autocast(
            self.device.type, narrow, enabled=narrow is not None
        ):
            output = self.chunks[operation.chunk](
                tokens if x is None else x, targets if last else None
            )
            if last:
                share = self.share
                if self.shares is not None:
                    share = self.shares[operation.microbatch]
                output = weighed(output, share)
        if last:
            self.loss += output.detach()
        if training:
            # The edge keeps the graph and not the result, whose memory is
            # free as soon as it is sent.
            edge = get_gradient_edge(output) if output.requires_grad else None
            self.saved[operation.microbatch, operation.chunk] = x, edge
        return output

    def _backward(
        self, operation: Operation, gradient: Tensor | None
    ) -> Tensor | None:
        """Run backward through a chunk; return the gradient of its input."""
        key = operation.microbatch, operation.chunk
        x, edge = self.saved.pop(key)
        if edge is not None:
            with self._syncing(operation):
                # The last stage's begins with the loss.
                seed = self.scale if gradient is None else gradient
                torch.autograd.backward(edge, seed)
        return None if x is None else x.grad

    def _syncing(self, operation: Operation) -> AbstractContextManager:
        chunk = self.chunks[operation.chunk]
        last = self.plans[TRAINING].last_backward
        if operation == last[operation.chunk]:
            return nullcontext()
        return chunk.no_sync() if hasattr(chunk, "no_sync") else nullcontext()
