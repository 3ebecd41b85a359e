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
from dataclasses import asdict
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.testing._internal.distributed.fake_pg import FakeStore

from workshop import collectives
from workshop.estimate.layout import chunks_of
from workshop.estimate.pipeline import in_flight
from workshop.groups import Coordinate, Groups, ParallelDims, make_groups
from workshop.models.gpt import GPT, GPTConfig, compile_blocks
from workshop.parallel.data.overlapped import OverlappedDataParallel
from workshop.parallel.pipeline.stages import Stage
from workshop.parallel.release import release
from workshop.parallel.tensor import transform as tensor_parallel
from workshop.training.clipping import clipped_step, global_norm
from workshop.training.optimizer import make_optimizer

CLIP = 1.0
LR = 1e-4


@contextmanager
def pretended(spread: dict, stage: int) -> Iterator[Groups]:
    """Join a group of the layout's size that is not there.

    Args:
        spread: as `workshop.estimate.layout.layout` makes it.
        stage: the pipeline rank; on the other axes this is rank 0.
    """
    dims = ParallelDims(spread["dp"], spread["tp"], spread["pp"])
    dist.init_process_group(
        "fake",
        store=FakeStore(),
        rank=dims.rank(Coordinate(pp=stage, dp=0, tp=0)),
        world_size=dims.world_size,
    )
    try:
        with outputs_written():
            yield make_groups(dims)
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
    """A rank's model, optimizer and input.

    Args:
        config: of the dense model.
        spread: the layout, one chunk a rank.
        stage: the pipeline rank.
        groups: from `pretended`.
        compiled: compile each block.
    """

    def __init__(
        self,
        config: GPTConfig,
        spread: dict,
        stage: int,
        groups: Groups,
        device: torch.device,
        compiled: bool,
    ) -> None:
        self.spread, self.stage, self.groups = spread, stage, groups
        self.device = device
        torch.manual_seed(0)
        with torch.device(device):
            module: nn.Module = GPT(config)
        if device.type == "cuda":
            module.bfloat16()
        ((layers, first, last),) = chunks_of(asdict(config), spread, stage)
        self.first, self.last = first, last
        if not (first and last):
            begin = sum(
                chunks_of(asdict(config), spread, before)[0][0]
                for before in range(stage)
            )
            blocks = range(begin, begin + layers)
            module = Stage(module, blocks, first, last)
        self.module = tensor_parallel.apply(
            module,
            tensor_parallel.PLAN,
            groups.tp,
            spread["sequence_parallel"],
        )
        if compiled:
            compile_blocks(self.module)
        self.optimizer = make_optimizer(self.module, LR)
        self.model = self.module
        if spread["dp"] > 1:
            self.model = OverlappedDataParallel(
                self.module, groups.dp, transport="collective"
            )
        self._make_input(config)

    def _make_input(self, config: GPTConfig) -> None:
        b, s = self.spread["micro_batch"], config.sequence
        whole = not self.spread["sequence_parallel"]
        own = s if whole else s // self.spread["tp"]
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
        result = self.model(x, self.tokens if self.last else None)
        return get_gradient_edge(result)

    def backward(self, edge: GradientEdge) -> None:
        """Run backward, from the loss or from a gradient that came in."""
        gradient = None if self.last else self.activations
        torch.autograd.backward(edge, gradient)

    def update(self) -> None:
        """Complete the gradients, clip them, update the weights."""
        if self.model is not self.module:
            self.model.finish()
        tensor_parallel.finish_gradients(self.module, self.groups.tp)
        parameters = list(self.module.parameters())
        norm = global_norm(parameters, self.groups.tp, self.groups.pp)
        clipped_step(self.optimizer, norm, CLIP)

    def timed_step(self) -> list[float]:
        """Return the seconds of forward, backward and update."""
        self.optimizer.zero_grad(set_to_none=True)
        marks = [self._mark()]
        edge = self.forward()
        marks.append(self._mark())
        self.backward(edge)
        marks.append(self._mark())
        self.update()
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
        p, m = self.spread["pp"], self.spread["num_microbatches"]
        schedule = self.spread["schedule"]
        held = in_flight(schedule, p, m, 1, self.stage) if p > 1 else 1
        self.optimizer.zero_grad(set_to_none=True)
        if self.model is not self.module:
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

    def close(self) -> None:
        """Let go of the model, so that the next rank finds memory free."""
        release([self.module])

    def state_bytes(self) -> int:
        """Return the bytes of weights, gradients and optimizer states."""
        total = 0
        for parameter in self.module.parameters():
            total += parameter.nbytes
            if parameter.grad is not None:
                total += parameter.grad.nbytes
        for state in self.optimizer.state.values():
            total += sum(
                value.nbytes
                for value in state.values()
                if torch.is_tensor(value) and value.dim()
            )
        return total
