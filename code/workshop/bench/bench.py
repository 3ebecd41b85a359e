"""What every comparison within one job has: its data, its record, its clock.

A step of a contestant takes this rank's micro-batches and returns a
1-dimensional tensor, the loss first; on CUDA it is only queued.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from workshop.bench.layouts import Labelled
from workshop.data.batches import Batches
from workshop.estimate.flops import flops_per_token
from workshop.estimate.hardware import peak_flops
from workshop.job.clock import StepClock
from workshop.job.launch import Job, together
from workshop.job.metrics import MetricsWriter, metrics_path
from workshop.lab1.pretrain_gpt import device_name, prepare
from workshop.lab1.pretrain_options import default_vocabulary
from workshop.models.gpt import CONFIGS, GPT, num_parameters
from workshop.profiling.profile import PROFILED, RankProfile

Step = Callable[[list[tuple[Tensor, Tensor]]], Tensor]


def settled(
    args: argparse.Namespace, small: dict[str, Any]
) -> argparse.Namespace:
    """Return the arguments with the small sizes where they hold, and data.

    `--small` goes without saying where there is no GPU. The corpus is a MiB
    of the standard library: a comparison measures time and not what is
    learnt.
    """
    if args.small or not torch.cuda.is_available():
        vars(args).update(small, small=True)
    args.corpus = args.hf_dataset = None
    args.corpus_mib = 1.0
    args.vocabulary = default_vocabulary(args.model)
    return args


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
        corpus, tokenizer, tokens = prepare(job, args)
        self.tokens = tokens[0]
        with torch.device("meta"):
            parameters = num_parameters(GPT(self.config))
        self.flops = flops_per_token(
            parameters,
            self.config.layers,
            self.config.hidden,
            self.config.sequence,
        )
        path = metrics_path(None) if job.first else None
        self.writer = together(lambda: MetricsWriter(path))
        device = device_name(job)
        self.writer.meta(
            **meta,
            world_size=job.world_size,
            device=device,
            parameters=parameters,
            flops_per_token=self.flops,
            peak_flops=peak_flops(device),
            corpus_sha256=corpus.sha256,
            tokenizer_sha256=tokenizer.sha256,
        )

    def timed(
        self, step: Step, batches: Batches
    ) -> tuple[float, list[float]]:
        """Return this rank's median seconds of a step, and the last values.

        The first `warmup_steps` are not among those of the median.
        """
        clock, marks = StepClock(self.job.device), []
        for number in range(self.args.warmup_steps + self.args.steps):
            values = step(batches.on(self.job.device, number))
            marks.append(clock.mark(number, values))
        read = [mark.read() for mark in marks]
        seconds = [each for _, each in read[self.args.warmup_steps :]]
        return median(seconds), read[-1][0]

    def everyone(self, mine: object) -> list:
        """Return what each rank gives, in their order.

        Objects travel by gloo: a waiting GPU stays idle and cool.
        """
        found: list = [None] * self.job.world_size
        dist.all_gather_object(found, mine)
        return found

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
        self, step: Step, batches: Batches, folder: Path, **labels: object
    ) -> None:
        """Profile a few steps on every rank, into `folder`."""
        after = self.args.warmup_steps
        writer = Labelled(self.writer, **labels)
        profiler = RankProfile(folder, self.job, 0, after, writer)
        for number in range(after + PROFILED):
            profiler.at(number)
            step(batches.on(self.job.device, number))
        profiler.at(after + PROFILED)

    def say(self, line: str) -> None:
        """Print a line on rank 0."""
        if self.job.first:
            print(line, flush=True)


def in_gib(memory: list[float]) -> str:
    """Return the peaks of all ranks as a log line shows them."""
    return "GiB " + " ".join(f"{gib:5.1f}" for gib in memory)
