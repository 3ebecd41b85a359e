"""The same GPT in different layouts, ready to take one step at a time."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from workshop.data.batches import Batches
from workshop.groups import Coordinate, Groups, ParallelDims, make_groups
from workshop.job.launch import Job
from workshop.job.metrics import MetricsWriter
from workshop.models.gpt import GPT, GPTConfig
from workshop.parallel.pipeline.schedule import make_schedule
from workshop.training.hybrid import Pipelined, Strategy, make_strategy
from workshop.training.layout import Layout
from workshop.training.optimizer import make_optimizer
from workshop.training.step import training_step

CLIP, LR, SEED = 1.0, 1e-4, 0
SMALL = {
    "model": "tiny",
    "micro_batch": 2,
    "piece": 1,
    "num_microbatches": 4,
    "steps": 2,
    "warmup_steps": 1,
}
"""The arguments of a comparison of layouts without a GPU."""


@dataclass(frozen=True)
class Contestant:
    """A layout with the micro-batches of a step.

    In the layout `alone` every rank trains a model of its own.
    """

    name: str
    layout: Layout
    micro_batch: int
    num_microbatches: int
    alone: bool = False

    def sequences(self, world: int) -> int:
        """Return the sequences that all ranks process in a step."""
        sharing = self.layout.tensor * self.layout.pipeline
        copies = world if self.alone else world // sharing
        return copies * self.micro_batch * self.num_microbatches


def contestants(
    world: int, micro_batch: int, piece: int, num_microbatches: int
) -> list[Contestant]:
    """Return what `world` ranks can do with one strategy at a time.

    Args:
        micro_batch: sequences of a micro-batch, but for the pipeline.
        piece: sequences of one of the pipeline's micro-batches, smaller,
            since a step takes many of them.
        num_microbatches: micro-batches of the pipeline's step.
    """
    return [
        Contestant("alone", Layout(), micro_batch, 1, alone=True),
        Contestant(f"dp{world}", Layout(), micro_batch, 1),
        Contestant(f"tp{world}", Layout(tensor=world), micro_batch, 1),
        Contestant(
            f"tp{world}-sp",
            Layout(tensor=world, sequence_parallel=True),
            micro_batch,
            1,
        ),
        Contestant(
            f"pp{world}", Layout(pipeline=world), piece, num_microbatches
        ),
    ]


def batches_of(
    contestant: Contestant, tokens: np.ndarray, config: GPTConfig, job: Job
) -> Batches:
    """Return the batches of this rank's copy of the model."""
    number, world = contestant.num_microbatches, job.world_size
    copy, copies = job.rank, world
    if not contestant.alone:
        dims = contestant.layout.dims(world, config, number)
        copy, copies = dims.coordinate(job.rank).dp, dims.dp
    return Batches(
        tokens,
        config.sequence,
        contestant.micro_batch,
        number,
        copy,
        copies,
        SEED,
    )


class Trainer:
    """A model, its optimizer and its batches in the layout of a contestant.

    Weights are bfloat16 on CUDA; blocks are compiled if asked for.
    """

    def __init__(
        self,
        contestant: Contestant,
        config: GPTConfig,
        job: Job,
        compiled: bool,
    ) -> None:
        self.contestant, self.config, self.job = contestant, config, job
        layout = contestant.layout
        self.groups = (
            alone(job)
            if contestant.alone
            else make_groups(
                layout.dims(
                    job.world_size, config, contestant.num_microbatches
                )
            )
        )
        torch.manual_seed(SEED)
        with torch.device(job.device):
            module = GPT(config)
        if job.device.type == "cuda":
            module.bfloat16()
        self.strategy: Strategy = make_strategy(
            module,
            layout,
            self.groups,
            contestant.micro_batch,
            contestant.num_microbatches,
            "inductor" if compiled else None,
        )
        self.optimizer = make_optimizer(
            torch.nn.ModuleList(self.strategy.chunks), LR
        )

    def step(self, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Take one step; return loss and gradient norm, (2,)."""
        return training_step(
            self.strategy, self.optimizer, batches, CLIP, bf16=False
        )

    def reorder(
        self, schedule: str, num_microbatches: int, align: bool
    ) -> None:
        """Give a pipeline another schedule, or other micro-batches.

        The stages and their connections stay as they are. With `align` the
        ranks wait for each other before a step, so that the times of their
        traces can be compared.
        """
        strategy = self.strategy
        assert isinstance(strategy, Pipelined)
        strategy.pipeline.reorder(
            make_schedule(
                schedule,
                self.groups.pp.size(),
                num_microbatches,
                len(strategy.models),
            )
        )
        strategy.pipeline.align = align


class Labelled:
    """A writer whose measures all carry the same labels."""

    def __init__(self, writer: MetricsWriter, **labels: object) -> None:
        self.writer, self.labels = writer, labels

    def measure(
        self, name: str, value: float, unit: str, **labels: object
    ) -> None:
        """Write a measure with its own labels and these."""
        self.writer.measure(name, value, unit, **self.labels, **labels)


def alone(job: Job) -> Groups:
    """Return groups of one rank each; every rank of the job calls it."""
    own = [[rank] for rank in range(job.world_size)]
    group = dist.new_subgroups_by_enumeration(own)[0]
    return Groups(ParallelDims(), Coordinate(0, 0, 0), group, group, group)
