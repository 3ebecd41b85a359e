"""Bugs of hybrid layouts, each planted into a strategy on its rank.

Each function makes one mistake that people make where strategies meet: in
the norm of a gradient that is spread over ranks, in who averages with whom,
and in who reads and who reports what.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from hybrid_cases import Case
from torch import Tensor

from workshop import collectives
from workshop.training.clipping import global_norm, local_norm
from workshop.training.hybrid import MicroBatch, Strategy
from workshop.training.layout import Layout


def clip_each_rank(strategy: Strategy) -> None:
    """Every rank scales its gradients by a norm of its own."""
    strategy.global_norm = lambda: local_norm(strategy.parameters)


def count_replicated_on_every_rank(strategy: Strategy) -> None:
    """Squares of all parameters are added up over tensor parallel ranks."""
    for parameter in strategy.parameters:
        parameter.tensor_sharded = True


def count_the_tied_copy(strategy: Strategy) -> None:
    """The embedding's gradient counts on the first and the last stage."""
    for parameter in strategy.parameters:
        parameter.__dict__.pop("tied_copy", None)


def leave_out_other_stages(strategy: Strategy) -> None:
    """Squares are not added up over the pipeline."""
    strategy.global_norm = lambda: global_norm(
        strategy.parameters, strategy.groups.tp
    )


def average_over_the_world(strategy: Strategy) -> None:
    """The gradients of different shards are averaged with each other."""
    for model in strategy.models:
        model.group, model.ranks = dist.group.WORLD, dist.get_world_size()


def average_the_first_chunk(strategy: Strategy) -> None:
    """The other chunks of a rank are forgotten."""
    for model in strategy.models[1:]:
        model.finish = lambda: None


def read_another_batch(strategy: Strategy) -> None:
    """Each tensor parallel rank reads sequences of its own."""
    forward_backward = strategy.forward_backward

    def read(micro_batches: list[MicroBatch], bf16: bool) -> Tensor:
        rank = strategy.groups.at.tp
        mine = [
            tuple(part.roll(rank, dims=0) for part in pair)
            for pair in micro_batches
        ]
        return forward_backward(mine, bf16)

    strategy.forward_backward = read


def keep_the_loss(strategy: Strategy) -> None:
    """The loss stays on the last stage, and rank 0 logs a zero."""
    forward_backward = strategy.forward_backward

    def keep(micro_batches: list[MicroBatch], bf16: bool) -> Tensor:
        loss = forward_backward(micro_batches, bf16)
        pp = strategy.groups.pp
        return loss if pp.rank() == pp.size() - 1 else torch.zeros_like(loss)

    strategy.forward_backward = keep


def add_up_the_losses(strategy: Strategy) -> None:
    """The loss that is logged is the sum over data parallel ranks."""

    def total(value: Tensor) -> Tensor:
        collectives.all_reduce(value, strategy.groups.dp)
        return value

    strategy.mean = total


@dataclass(frozen=True)
class Bug:
    """A planted bug, the training it is in, and the check that sees it."""

    name: str
    plant: Callable[[Strategy], None]
    case: Case
    caught_by: str
    ratio: float | None = None


TP = Case(Layout(tensor=4), clip=0.05)
PP = Case(Layout(pipeline=4), num_microbatches=4, clip=0.05)
BOTH = Case(Layout(tensor=2, pipeline=2), num_microbatches=2)
COPIES = Case(Layout(tensor=2, data_parallel="naive"))
CHUNKS = Case(
    Layout(
        pipeline=2,
        schedule="interleaved",
        virtual_stages=2,
        data_parallel="naive",
    ),
    num_microbatches=2,
)

BUGS = [
    Bug("clipping per rank, tp", clip_each_rank, TP, "report"),
    Bug("clipping per rank, pp", clip_each_rank, PP, "report"),
    Bug(
        "norm counts replicated t times",
        count_replicated_on_every_rank,
        TP,
        "report",
    ),
    Bug("norm counts the tied copy", count_the_tied_copy, PP, "report"),
    Bug("norm of one stage", leave_out_other_stages, BOTH, "report"),
    Bug(
        "dp average over the world",
        average_over_the_world,
        COPIES,
        "report",
    ),
    Bug(
        "dp average of one chunk alone",
        average_the_first_chunk,
        CHUNKS,
        "report",
    ),
    Bug("tp ranks read other batches", read_another_batch, BOTH, "report"),
    Bug("loss stays on the last stage", keep_the_loss, BOTH, "report", 0.0),
    Bug("loss summed over dp", add_up_the_losses, COPIES, "report", 2.0),
]
