"""What every comparison within one job has: its data, its record, its clock.

A contestant is a `Trainer`, which takes one step at a time; on CUDA a step
is only queued.
"""

import argparse
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

from workshop.bench.contestants import LR
from workshop.bench.links.device_memory import Sizes, matmul_rate
from workshop.data.batches import Batches
from workshop.estimate.hardware import peak_flops
from workshop.job.clock import StepClock
from workshop.job.launch import Job, together
from workshop.job.metrics import MetricsWriter, metrics_path
from workshop.job.options import Parser, check_numbers
from workshop.layout import Layout
from workshop.models.gpt import CONFIGS, size_of
from workshop.training.report import flops_of, refuse_diverged
from workshop.training.text import prepare
from workshop.training.trainer import Trainer

SMALL = {
    "model": "tiny",
    "micro_batch": 2,
    "piece": 1,
    "num_microbatches": 4,
    "steps": 2,
    "warmup_steps": 1,
}
"""The arguments of a comparison of layouts without a GPU."""
LEAST = {
    "micro_batch": 1,
    "micro_batches": 1,
    "piece": 1,
    "num_microbatches": 1,
    "rounds": 1,
    "steps": 1,
    "warmup_steps": 0,
}


def settled(
    parser: Parser, small: dict[str, Any], argv: list[str] | None = None
) -> argparse.Namespace:
    """Return the arguments with the small sizes where they hold.

    `--small` goes without saying where there is no GPU.  What the command
    line gives is as it says, small or not.

    Raises:
        UserError: a count or a size is too small.
    """
    args = parser.parse_args(argv)
    check_numbers(args, {n: k for n, k in LEAST.items() if n in args})
    if args.small or not torch.cuda.is_available():
        given = parser.given(argv)
        chosen = {k: v for k, v in small.items() if k not in given}
        vars(args).update(chosen, small=True)
    return args


class Labelled:
    """A writer whose measures all carry the same labels."""

    def __init__(self, writer: MetricsWriter, **labels: object) -> None:
        self.writer, self.labels = writer, labels

    def measure(
        self, name: str, value: float, unit: str, **labels: object
    ) -> None:
        """Write a measure with its own labels and these."""
        self.writer.measure(name, value, unit, **self.labels, **labels)


class Bench:
    """The data of a comparison, its metrics, and how a turn is timed.

    Args:
        job: this rank's.
        args: with `model`, `steps` and `warmup_steps`, as `settled` does it.
        meta: what the record says besides the model, device and data.
    """

    def __init__(
        self, job: Job, args: argparse.Namespace, **meta: object
    ) -> None:
        self.job, self.args = job, args
        self.config = CONFIGS[args.model]
        # A comparison measures time and not what is learnt: a MiB will do.
        text = prepare(job, args.model, corpus_mib=1.0)
        self.tokens = text.training
        self.flops = flops_of(self.config)
        path = metrics_path(None) if job.first else None
        self.writer = together(lambda: MetricsWriter(path))
        self.writer.meta(
            **meta,
            world_size=job.world_size,
            device=job.device_name,
            parameters=size_of(self.config),
            flops_per_token=self.flops,
            peak_flops=peak_flops(job.device_name),
            **text.described(),
        )

    def timed(
        self, trainer: Trainer, batches: Batches
    ) -> tuple[float, list[float]]:
        """Return this rank's median seconds of a step, and the last values.

        The first `warmup_steps` are not among those of the median.

        Raises:
            UserError: the training has diverged.
        """
        clock, marks = StepClock(self.job.device), []
        for number in range(self.args.warmup_steps + self.args.steps):
            values = trainer.step(batches.on(self.job.device, number), LR)
            marks.append(clock.mark(number, values))
        read = [mark.read() for mark in marks]
        for number, (values, _) in enumerate(read, start=1):
            refuse_diverged(f"step {number}", *values)
        seconds = [each for _, each in read[self.args.warmup_steps :]]
        return median(seconds), read[-1][0]

    def everyone(self, mine: object) -> list:
        """Return what each rank gives, in their order.

        Objects travel by gloo: a waiting GPU stays idle and cool.
        """
        everyone: list = [None] * self.job.world_size
        dist.all_gather_object(everyone, mine)
        return everyone

    def write_matrix_rate(self, number: int) -> None:
        """Write each rank's FLOP rate of one large product, all at once.

        It is what the speeds of this job are a share of.
        """
        sizes = Sizes.of(self.job.device, full=not self.args.small)
        mine = matmul_rate(self.job.device, sizes.matrix, sizes.dtype)
        for rank, rate in enumerate(self.everyone(mine)):
            labels = {"rank": rank, "round": number}
            self.writer.measure(
                "matrix_tflops", rate / 1e12, "TFLOP/s", **labels
            )

    def write_speed(
        self,
        tokens: int,
        seconds: float,
        memory: list[float],
        **labels: object,
    ) -> tuple[float, float]:
        """Write one turn; return tokens/s of all ranks and TFLOP/s of each.

        Args:
            tokens: of a step, over all ranks.
            seconds: of a step, the slowest rank's.
            memory: each rank's peak in GiB.
        """
        rate = tokens / seconds
        tflops = rate / self.job.world_size * self.flops / 1e12
        measure = Labelled(self.writer, **labels).measure
        measure("tokens_per_s", rate, "tokens/s")
        measure("tflops_per_gpu", tflops, "TFLOP/s")
        measure("step_time_s", seconds, "s")
        for rank, gib in enumerate(memory):
            measure("memory_gib", gib, "GiB", rank=rank)
        return rate, tflops

    def profile_steps(
        self,
        trainer: Trainer,
        batches: Batches,
        folder: Path,
        every_rank: bool = True,
        **labels: object,
    ) -> None:
        """Profile a few steps, into `folder`; see `Profiler`."""
        from workshop.profiling.profile import PROFILED, Profiler

        after = self.args.warmup_steps
        writer = Labelled(self.writer, **labels)
        profiler = Profiler(folder, self.job, 0, after, writer, every_rank)
        for number in range(after + PROFILED):
            profiler.at(number)
            trainer.step(batches.on(self.job.device, number), LR)
        profiler.at(after + PROFILED)

    def batches(
        self, layout: Layout, seed: int, alone: bool = False
    ) -> Batches:
        """Return the batches of this rank's copy of the model.

        `alone`, every rank has a copy of its own.
        """
        rank, copies = self.job.rank, self.job.world_size
        dp = rank if alone else layout.coordinate(rank).dp
        spread = layout.replace(dp=copies) if alone else layout
        return Batches.of_layout(
            self.tokens, self.config.sequence, spread, dp, seed
        )

    def say(self, line: str) -> None:
        """Print a line on rank 0."""
        if self.job.first:
            print(line, flush=True)


def in_gib(memory: list[float]) -> str:
    """Return the peaks of all ranks as a log line shows them."""
    return "GiB " + " ".join(f"{gib:5.1f}" for gib in memory)
