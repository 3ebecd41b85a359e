"""One rank of any layout, alone on one device, with nobody to talk to.

The process group is torch's fake one: it has as many ranks as the layout
and its collectives return at once, without the others' data. What the rank
computes is therefore wrong, and how long it computes and how much memory it
takes is right, but for the communication, which `workshop.estimate` adds.

That holds only while every tensor has values like those of training, for
the power and with it the speed of a product depend on its numbers (He 2024,
thonking.ai). So no collective may leave an output as the allocator gave it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
import torch.distributed as dist
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.testing._internal.distributed.fake_pg import FakeStore

from workshop import collectives
from workshop.bench.contestants import LR, our_trainer
from workshop.estimate.pipeline import in_flight
from workshop.groups import Groups, make_groups
from workshop.layout import Layout
from workshop.models.gpt import GPTConfig
from workshop.training.whole_model import WholeModel


@contextmanager
def pretended(layout: Layout, stage: int) -> Iterator[Groups]:
    """Join a group of the layout's size that is not there.

    `stage` is the pipeline rank; on the other axes this is rank 0.
    """
    dist.init_process_group(
        "fake",
        store=FakeStore(),
        rank=layout.rank(pp=stage, dp=0, tp=0),
        world_size=layout.world_size,
    )
    try:
        with outputs_written():
            yield make_groups(layout)
    finally:
        dist.destroy_process_group()


@contextmanager
def outputs_written() -> Iterator[None]:
    """Let a fake reduce-scatter write this rank's own addend.

    The fake group of torch 2.11 leaves its output as it was; a later one
    writes it, and is left alone.
    """
    reduce_scatter = collectives._reduce_scatter
    ranks = dist.get_world_size()
    probe = torch.full((1,), torch.nan)
    reduce_scatter(probe, torch.ones(ranks))
    if not probe.isnan():
        yield
        return

    def with_own_part(output, tensor, op, group, async_op):
        work = reduce_scatter(output, tensor, op, group, async_op)
        output.copy_(tensor.chunk(group.size())[group.rank()])
        return work

    collectives._reduce_scatter = with_own_part
    try:
        yield
    finally:
        collectives._reduce_scatter = reduce_scatter


class RankAlone:
    """A rank's trainer and its input, and the parts of its step one by one.

    Args:
        config: of the dense model.
        groups: from `pretended`, of a layout with one chunk a rank.
        device: where it computes.
        compiled: compile each block.
    """

    def __init__(
        self,
        config: GPTConfig,
        groups: Groups,
        device: torch.device,
        compiled: bool,
    ) -> None:
        self.layout, self.stage = groups.layout, groups.at.pp
        self.first = self.stage == 0
        self.last = self.stage == self.layout.pp - 1
        self.device = device
        self.trainer = our_trainer(
            config,
            device,
            groups,
            compiled,
            "overlapped-collective",
            # It has a stage perhaps, and nobody to send to.
            make_runner=lambda parts, groups: WholeModel(parts.models[0]),
        )
        (self.module,), (self.model,) = (
            self.trainer.chunks,
            self.trainer.models,
        )
        self._make_input(config)

    def _make_input(self, config: GPTConfig) -> None:
        b, s = self.layout.micro_batch, config.sequence
        own = s // self.layout.tp if self.layout.sequence_parallel else s
        self.tokens = torch.randint(
            config.vocabulary, (b, s), device=self.device
        )
        dtype = next(self.module.parameters()).dtype
        self.activations = torch.randn(
            b, own, config.hidden, device=self.device, dtype=dtype
        )

    def forward(self) -> GradientEdge:
        """Run one micro-batch; return where its backward begins.

        As in a pipeline the activations that a stage hands over do not stay.
        """
        x = self.tokens
        if not self.first:
            x = self.activations.clone().requires_grad_()
        output = self.model(x, self.tokens if self.last else None)
        return get_gradient_edge(output)

    def backward(self, edge: GradientEdge) -> None:
        """Run backward, from the loss or from a gradient that came in."""
        gradient = None if self.last else self.activations
        torch.autograd.backward(edge, gradient)

    def timed_step(self) -> list[float]:
        """Return the seconds of forward, backward and update."""
        self.trainer.optimizer.zero_grad(set_to_none=True)
        marks = [self._mark()]
        edge = self.forward()
        marks.append(self._mark())
        self.backward(edge)
        marks.append(self._mark())
        self.trainer.update(LR)
        marks.append(self._mark())
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return [a.elapsed_time(b) / 1e3 for a, b in pairwise(marks)]
        return [b - a for a, b in pairwise(marks)]

    def _mark(self) -> "torch.cuda.Event | float":
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def hold(self) -> None:
        """Go through a step's peak of memory.

        As many micro-batches are in flight as the schedule has on this
        stage; with several in a step, the gradients of others are there.
        """
        p, m = self.layout.pp, self.layout.num_microbatches
        schedule = self.layout.schedule
        held = in_flight(schedule, p, m, 1, self.stage) if p > 1 else 1
        self.trainer.optimizer.zero_grad(set_to_none=True)
        if self.layout.dp > 1:
            with self.model.no_sync():
                self._run(held)
            return
        if m > 1:
            self._run(1)
        self._run(held)

    def _run(self, held: int) -> None:
        edges = [self.forward() for _ in range(held)]
        while edges:
            self.backward(edges.pop(0))

    def state_bytes(self) -> int:
        """Return the bytes of weights, gradients and optimizer states."""
        total = 0
        for parameter in self.module.parameters():
            total += parameter.nbytes
            if parameter.grad is not None:
                total += parameter.grad.nbytes
        for state in self.trainer.optimizer.state.values():
            total += sum(
                value.nbytes
                for value in state.values()
                if torch.is_tensor(value) and value.dim()
            )
        return total
