"""Bugs of hybrid layouts, each planted into a trainer on its rank.

Each function makes one mistake that people make where strategies meet: in
the norm of a gradient that is spread over ranks, in who averages with whom,
and in who reads and who reports what.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from hybrid_cases import Case, of
from torch import Tensor

from workshop import collectives
from workshop.parallel.placement import Placement, Shard
from workshop.training.clipping import global_norm, local_norm
from workshop.training.layout_trainer import LayoutTrainer
from workshop.training.trainer import MicroBatch


def clip_each_rank(trainer: LayoutTrainer) -> None:
    """Every rank scales its gradients by a norm of its own."""
    mine = trainer.parameters.values()
    trainer.global_norm = lambda: local_norm(mine)


def count_replicated_on_every_rank(trainer: LayoutTrainer) -> None:
    """Squares of all parameters are added up over tensor parallel ranks."""
    split = Placement(tp=Shard(dimension=0, length=0))
    trainer.placement = dict.fromkeys(trainer.placement, split)


def count_the_tied_copy(trainer: LayoutTrainer) -> None:
    """The embedding's gradient counts on the first and the last stage."""
    trainer.placement = dict.fromkeys(trainer.placement, Placement())


def leave_out_other_stages(trainer: LayoutTrainer) -> None:
    """Squares are not added up over the pipeline."""
    groups = trainer.groups
    one = replace(groups, layout=groups.layout.replace(pp=1, dp=2))
    trainer.global_norm = lambda: global_norm(
        trainer.parameters, trainer.placement, one
    )


def average_over_the_world(trainer: LayoutTrainer) -> None:
    """The gradients of different shards are averaged with each other."""
    for model in trainer.models:
        model.group, model.ranks = dist.group.WORLD, dist.get_world_size()


def average_the_first_chunk(trainer: LayoutTrainer) -> None:
    """The other chunks of a rank are forgotten."""
    for model in trainer.models[1:]:
        model.finish = lambda: None


def read_another_batch(trainer: LayoutTrainer) -> None:
    """Each tensor parallel rank reads sequences of its own."""
    forward_backward = trainer.forward_backward

    def read(micro_batches: list[MicroBatch]) -> Tensor:
        rank = trainer.groups.at.tp
        mine = [
            tuple(part.roll(rank, dims=0) for part in pair)
            for pair in micro_batches
        ]
        return forward_backward(mine)

    trainer.forward_backward = read


def keep_the_loss(trainer: LayoutTrainer) -> None:
    """The loss stays on the last stage, and rank 0 logs a zero."""
    forward_backward = trainer.forward_backward

    def keep(micro_batches: list[MicroBatch]) -> Tensor:
        loss = forward_backward(micro_batches)
        pp = trainer.groups.pp
        return loss if pp.rank() == pp.size() - 1 else torch.zeros_like(loss)

    trainer.forward_backward = keep


def add_up_the_losses(trainer: LayoutTrainer) -> None:
    """The loss that is logged is the sum over data parallel ranks."""

    def total(value: Tensor) -> Tensor:
        collectives.all_reduce(value, trainer.groups.dp)
        return value

    trainer.mean = total


@dataclass(frozen=True)
class Bug:
    """A planted bug, the training it is in, and the check that sees it."""

    name: str
    plant: Callable[[LayoutTrainer], None]
    case: Case
    caught_by: str
    ratio: float | None = None


INTERLEAVED = {"schedule": "interleaved", "virtual_stages": 2}
TP = Case(of(4, tp=4), clip=0.05)
PP = Case(of(4, pp=4, m=4), clip=0.05)
BOTH = Case(of(4, tp=2, pp=2, m=2))
COPIES = Case(of(4, tp=2), data_parallel="naive")
CHUNKS = Case(of(4, pp=2, m=2, **INTERLEAVED), data_parallel="naive")

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
