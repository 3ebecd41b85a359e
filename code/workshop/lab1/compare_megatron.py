r"""torchrun --standalone --nproc-per-node 2 -m workshop.lab1.compare_megatron

Trains the same GPT by this repository and by megatron-core, in the same
layouts, in turn, in one job. Each round takes every contestant once, so a
drift of clocks or temperature meets all of them alike. A profile of each
then says which kernels make the difference:

  torchrun --standalone --nproc-per-node 2 -m workshop.lab1.compare_megatron \
    --layouts dp2,tp2,tp2-sp,pp2 --profile tp2,pp2

One GPU: --nproc-per-node 1 and --layouts dp1.  Without a GPU it runs ours
alone, at a small size, and says so.
"""

import argparse
import os
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist

from workshop.data.batches import Batches
from workshop.errors import UserError
from workshop.estimate.flops import flops_per_token
from workshop.estimate.hardware import peak_flops
from workshop.lab1.compare.contestants import forget
from workshop.lab1.compare.layouts import SEED, Contestant, Labelled
from workshop.lab1.megatron.contestants import NAMES, named, ready
from workshop.lab1.megatron.kernels import side_by_side
from workshop.lab1.megatron.options import require
from workshop.lab1.pretrain_gpt import device_name, prepare
from workshop.models.gpt import CONFIGS, GPT, num_parameters
from workshop.training.clock import StepClock
from workshop.training.failures import joined
from workshop.training.launch import Job, together
from workshop.training.metrics import MetricsWriter, metrics_path
from workshop.training.profile import PROFILED, RankProfile
from workshop.training.report import memory_gib


def parse() -> argparse.Namespace:
    """Return the arguments; without a GPU `--small` goes without saying."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[2])
    add = parser.add_argument
    add("--model", choices=list(CONFIGS), default="gpt-1.3b")
    add("--layouts", metavar="NAMES", help="default: dp, tp, tp-sp and pp")
    add("--micro-batch", type=int, default=16, help="sequences at once")
    add("--piece", type=int, default=4, help="the same in a pipeline")
    add("--num-microbatches", type=int, default=16, help="of a pipeline")
    add("--rounds", type=int, default=3, help="turns of each contestant")
    add("--warmup-steps", type=int, default=4, help="untimed, each turn")
    add("--steps", type=int, default=10, help="timed steps of a turn")
    add("--profile", metavar="NAMES", help="layouts to profile afterwards")
    add("--small", action="store_true", help="tiny model, two steps")
    args = parser.parse_args()
    if args.small or not torch.cuda.is_available():
        args.small = True
        args.model, args.micro_batch, args.piece = "tiny", 2, 1
        args.num_microbatches, args.steps, args.warmup_steps = 4, 2, 1
    args.corpus = args.hf_dataset = None
    args.corpus_mib = 1.0
    args.vocabulary = 1024 if args.model == "tiny" else 16384
    return args


class Comparison:
    """The data, the contestants, and what is measured of them."""

    def __init__(self, job: Job, args: argparse.Namespace) -> None:
        self.job, self.args = job, args
        self.config = CONFIGS[args.model]
        self.layouts = together(lambda: self.chosen(args.layouts))
        self.profiled = together(
            lambda: self.chosen(args.profile) if args.profile else []
        )
        self.names = list(NAMES)
        if job.device.type == "cuda":
            together(require)
        else:
            self.names = ["ours"]
            self.say("megatron-core computes on GPUs alone: only ours runs")
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
        self.writer.meta(
            **{k: v for k, v in vars(args).items() if k != "profile"},
            seed=SEED,
            contestants=self.names,
            world_size=job.world_size,
            device=device_name(job),
            parameters=parameters,
            flops_per_token=self.flops,
            peak_flops=peak_flops(device_name(job)),
            corpus_sha256=corpus.sha256,
            tokenizer_sha256=tokenizer.sha256,
            # megatron-core recommends 1 for tensor parallelism.
            cuda_device_max_connections=os.environ.get(
                "CUDA_DEVICE_MAX_CONNECTIONS"
            ),
        )

    def chosen(self, names: str | None) -> list[Contestant]:
        """Return the layouts of these names, checked against the world.

        Raises:
            UserError: a name is none, or its layout does not fit.
        """
        args, world = self.args, self.job.world_size
        if names is None:
            names = f"dp{world}"
            if world > 1:
                names += f",tp{world},tp{world}-sp,pp{world}"
        found = []
        for name in names.split(","):
            contestant = named(
                name, args.micro_batch, args.piece, args.num_microbatches
            )
            dims = contestant.layout.dims(
                world, self.config, contestant.num_microbatches
            )
            if name.startswith("dp") and not name.startswith(f"dp{dims.dp}"):
                raise UserError(
                    f"{name} does not fit the ranks, world size {world}: "
                    f"data parallel size {dims.dp} would"
                )
            found.append(contestant)
        return found

    def batches(self, contestant: Contestant) -> Batches:
        """Return the batches of this rank's copy of the model."""
        layout, number = contestant.layout, contestant.num_microbatches
        dims = layout.dims(self.job.world_size, self.config, number)
        return Batches(
            self.tokens,
            self.config.sequence,
            contestant.micro_batch,
            number,
            dims.coordinate(self.job.rank).dp,
            dims.dp,
            SEED,
        )

    def turn(self, name: str, contestant: Contestant) -> tuple[float, ...]:
        """Return this rank's median seconds a step, peak GiB, last loss."""
        batches, device = self.batches(contestant), self.job.device
        with ready(name, contestant, self.config, self.job) as step:
            clock, marks = StepClock(device), []
            for number in range(self.args.warmup_steps + self.args.steps):
                values = step(batches.on(device, number))
                marks.append(clock.mark(number, values))
            read = [mark.read() for mark in marks]
        seconds = [each for _, each in read[self.args.warmup_steps :]]
        return median(seconds), memory_gib(device), read[-1][0][0]

    def round(self, number: int) -> None:
        """Let every contestant take its turn in every layout."""
        for contestant in self.layouts:
            for name in self.names:
                mine = self.turn(name, contestant)
                forget()
                # Objects travel by gloo: a waiting GPU stays idle and cool.
                turns: list = [None] * self.job.world_size
                dist.all_gather_object(turns, mine)
                seconds = max(seconds for seconds, _, _ in turns)
                memory = [gib for _, gib, _ in turns]
                self.write(
                    name, contestant, number, seconds, memory, turns[0][2]
                )

    def write(
        self,
        name: str,
        contestant: Contestant,
        number: int,
        seconds: float,
        memory: list[float],
        loss: float,
    ) -> None:
        """Write speed, memory and loss of one turn."""
        world = self.job.world_size
        tokens = contestant.sequences(world) * self.config.sequence
        rate = tokens / seconds
        tflops = rate / world * self.flops / 1e12
        labels = {"contestant": name, "layout": contestant.name}
        measure = Labelled(self.writer, **labels, round=number).measure
        measure("tokens_per_s", rate, "tokens/s")
        measure("tflops_per_gpu", tflops, "TFLOP/s")
        measure("step_time_s", seconds, "s")
        measure("loss", loss, "nats/token")
        for rank, gib in enumerate(memory):
            measure("memory_gib", gib, "GiB", rank=rank)
        held = " ".join(f"{gib:5.1f}" for gib in memory)
        self.say(
            f"round {number} | {contestant.name:8s} | {name:14s} | tokens/s "
            f"{rate:10,.0f} | TFLOP/s/GPU {tflops:6.1f} | loss {loss:.4f} | "
            f"GiB {held}"
        )

    def profile(self, contestant: Contestant, artifacts: Path) -> None:
        """Profile a few steps of every contestant, and compare them."""
        batches, device = self.batches(contestant), self.job.device
        after = self.args.warmup_steps
        for name in self.names:
            labels = {"contestant": name, "layout": contestant.name}
            profiler = RankProfile(
                artifacts / contestant.name / name,
                self.job,
                0,
                after,
                Labelled(self.writer, **labels),
            )
            with ready(name, contestant, self.config, self.job) as step:
                for number in range(after + PROFILED):
                    profiler.at(number)
                    step(batches.on(device, number))
                profiler.at(after + PROFILED)
            forget()
        if self.job.first:
            folder = artifacts / contestant.name
            print(f"\nlayout {contestant.name}")
            print(side_by_side(folder, self.names), flush=True)

    def say(self, line: str) -> None:
        """Print a line on rank 0."""
        if self.job.first:
            print(line, flush=True)


def main() -> None:
    """Run all rounds, then the profiles."""
    with joined() as job:
        comparison = Comparison(job, together(parse))
        for number in range(comparison.args.rounds):
            comparison.round(number)
        artifacts = Path(os.environ.get("WORKSHOP_ARTIFACTS", "."))
        for contestant in comparison.profiled:
            comparison.profile(contestant, artifacts)
        comparison.writer.close()


if __name__ == "__main__":
    main()
