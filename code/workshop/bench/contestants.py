"""Contestants of a comparison: the same GPT in different layouts."""

import gc
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from workshop.errors import UserError
from workshop.groups import Groups, make_groups
from workshop.job.launch import Job
from workshop.layout import Coordinate, Layout
from workshop.models.gpt import GPTConfig, seeded
from workshop.training.fit import check_fit
from workshop.training.layout_trainer import LayoutTrainer
from workshop.training.trainer import Recipe

CLIP, LR, SEED = 1.0, 1e-4, 0
BUCKET_MIB = 100.0
"""The size of a bucket of gradients, the same for every contestant."""


@dataclass(frozen=True)
class Contestant:
    """A layout of all ranks; `alone`, every rank trains its own model."""

    name: str
    layout: Layout
    alone: bool = False

    def sequences(self, world_size: int) -> int:
        """Return the sequences that all ranks process in a step."""
        copies = world_size if self.alone else 1
        return copies * self.layout.sequences


def one_strategy_each(
    world_size: int, micro_batch: int, piece: int, num_microbatches: int
) -> list[Contestant]:
    """Return what the ranks can do with one strategy at a time.

    All of them, and each rank alone, take the same global batch, that of
    the pipeline. The arguments are those of `named`.
    """
    n = world_size
    pipelines = (f"pp{n}", f"pp{n}-eager", f"pp{n}-v2")
    names = (f"dp{n}", f"tp{n}", f"tp{n}-sp", *pipelines)
    sizes = (micro_batch, piece, num_microbatches)
    return [
        Contestant("alone", named("dp1", *sizes).layout, alone=True),
        *(named(name, *sizes) for name in names),
    ]


def named(
    name: str, micro_batch: int, piece: int, num_microbatches: int
) -> Contestant:
    """Return the layout of a name such as `tp2-sp`, with its micro-batches.

    Every layout trains the same global batch: `num_microbatches` pieces.

    Args:
        micro_batch: the most sequences of a micro-batch, but for a pipeline;
            t times as many where t ranks share each of them, so that the
            products of a rank are as large.
        piece: sequences of one of a pipeline's micro-batches, smaller,
            since a step takes many of them.
        num_microbatches: micro-batches of one pipeline's step.

    Raises:
        UserError: the name means no layout, or the batch does not divide.
    """
    layout = Layout.from_name(name, num_microbatches=num_microbatches)
    batch = piece * num_microbatches
    share = batch // layout.dp
    size = piece if layout.pp > 1 else min(micro_batch * layout.tp, share)
    if not size or size * (share // size) * layout.dp != batch:
        raise UserError(
            f"{name} cannot share a batch of {batch} sequences in "
            f"micro-batches of {size}: choose --micro-batch and "
            "--num-microbatches that divide it"
        )
    chosen = layout.replace(micro_batch=size, num_microbatches=share // size)
    return Contestant(name, chosen)


def alone(job: Job) -> Groups:
    """Return groups of one rank each; every rank of the job calls it."""
    own = [[rank] for rank in range(job.world_size)]
    group = dist.new_subgroups_by_enumeration(own)[0]
    return Groups(Layout(), Coordinate(0, 0, 0), group, group, group)


def our_trainer(
    config: GPTConfig,
    device: torch.device,
    groups: Groups,
    compiled: bool,
    data_parallel: str = "overlapped",
    bucket_mib: float = BUCKET_MIB,
    **options: Callable,
) -> LayoutTrainer:
    """Return this repository's contestant: on CUDA its weights are bf16.

    `options` are others of `LayoutTrainer`.
    """
    precision = "bf16-weights" if device.type == "cuda" else "float32"
    return LayoutTrainer(
        lambda: seeded(config, SEED, device),
        groups,
        Recipe(
            precision=precision,
            clip=CLIP,
            data_parallel=data_parallel,
            bucket_mib=bucket_mib,
            backend="inductor" if compiled else None,
        ),
        **options,
    )


def trainer_of(
    contestant: Contestant, config: GPTConfig, job: Job, compiled: bool
) -> LayoutTrainer:
    """Return our trainer in a contestant's layout, with its groups.

    Raises:
        UserError: the layout does not fit the model.
    """
    check_fit(config, contestant.layout)
    groups = (
        alone(job) if contestant.alone else make_groups(contestant.layout)
    )
    return our_trainer(config, job.device, groups, compiled)


def forget() -> None:
    """Free what the last contestant held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
