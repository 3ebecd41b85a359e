"""torchrun --standalone --nproc-per-node 2 -m workshop.lab1.compare_layouts

Trains the same GPT by data, tensor, sequence and pipeline parallelism over
all ranks, in turn, in one job, and each rank alone for comparison. Each
round takes every layout once, so a drift of clocks or temperature meets all
of them alike.
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
from workshop.lab1.compare.layouts import (
    SEED,
    Contestant,
    Labelled,
    Trainer,
    contestants,
)
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
    add("--micro-batch", type=int, default=16, help="sequences at once")
    add("--piece", type=int, default=4, help="the same in the pipeline")
    add("--num-microbatches", type=int, default=16, help="of the pipeline")
    add("--rounds", type=int, default=3, help="turns of each layout")
    add("--warmup-steps", type=int, default=4, help="untimed, each turn")
    add("--steps", type=int, default=10, help="timed steps of a turn")
    add("--only", metavar="NAMES", help="these layouts, comma-separated")
    add("--profile", action="store_true", help="profile a turn of each")
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
    """The data, the layouts, and what is measured of them."""

    def __init__(self, job: Job, args: argparse.Namespace) -> None:
        self.job, self.args = job, args
        self.config = CONFIGS[args.model]
        corpus, tokenizer, tokens = prepare(job, args)
        self.tokens = tokens[0]
        self.contestants = together(self.chosen)
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
            **{k: v for k, v in vars(args).items() if k != "only"},
            seed=SEED,
            world_size=job.world_size,
            device=device_name(job),
            parameters=parameters,
            flops_per_token=self.flops,
            peak_flops=peak_flops(device_name(job)),
            corpus_sha256=corpus.sha256,
            tokenizer_sha256=tokenizer.sha256,
        )

    def chosen(self) -> list[Contestant]:
        """Return the layouts of a round.

        Raises:
            UserError: `--only` names one that there is not.
        """
        args, world = self.args, self.job.world_size
        if world < 2:
            raise UserError(
                "one rank has nothing to share a model with: launch two or "
                "more with torchrun --nproc-per-node"
            )
        found = contestants(
            world, args.micro_batch, args.piece, args.num_microbatches
        )
        if args.only is None:
            return found
        names = args.only.split(",")
        known = [contestant.name for contestant in found]
        for name in names:
            if name not in known:
                raise UserError(
                    f"--only {name} is no layout of {world} ranks: choose "
                    f"from {', '.join(known)}"
                )
        return [c for c in found if c.name in names]

    def batches(self, trainer: Trainer) -> Batches:
        """Return the batches of a layout, by its data parallel ranks."""
        contestant, groups = trainer.contestant, trainer.groups
        alone = contestant.alone
        return Batches(
            self.tokens,
            self.config.sequence,
            contestant.micro_batch,
            contestant.num_microbatches,
            self.job.rank if alone else groups.at.dp,
            self.job.world_size if alone else groups.dims.dp,
            SEED,
        )

    def turn(self, contestant: Contestant) -> tuple[float, float]:
        """Return this rank's median seconds a step and its peak GiB."""
        trainer = Trainer(
            contestant, self.config, self.job, not self.args.small
        )
        batches = self.batches(trainer)
        clock, marks = StepClock(self.job.device), []
        total = self.args.warmup_steps + self.args.steps
        for number in range(total):
            values = trainer.step(batches.on(self.job.device, number))
            marks.append(clock.mark(number, values))
        seconds = [mark.read()[1] for mark in marks]
        return (
            median(seconds[self.args.warmup_steps :]),
            memory_gib(self.job.device),
        )

    def round(self, number: int) -> None:
        """Let every layout take its turn and write what it reached."""
        rates: dict[str, float] = {}
        for contestant in self.contestants:
            mine = self.turn(contestant)
            forget()
            # Objects travel by gloo: a waiting GPU stays idle and cool.
            turns: list = [None] * self.job.world_size
            dist.all_gather_object(turns, mine)
            seconds = max(seconds for seconds, _ in turns)
            tokens = contestant.sequences(self.job.world_size)
            rate = tokens * self.config.sequence / seconds
            rates[contestant.name] = rate
            memory = [gib for _, gib in turns]
            self.write(contestant, number, rate, seconds, memory)
            if "alone" in rates and not contestant.alone:
                self.writer.measure(
                    "scaling_efficiency",
                    rate / rates["alone"],
                    "",
                    layout=contestant.name,
                    round=number,
                )

    def write(
        self,
        contestant: Contestant,
        number: int,
        rate: float,
        seconds: float,
        memory: list[float],
    ) -> None:
        """Write the speed of one turn and each rank's peak memory."""
        per_gpu = rate / self.job.world_size
        tflops = per_gpu * self.flops / 1e12
        labels = {"layout": contestant.name, "round": number}
        measure = self.writer.measure
        measure("tokens_per_s", rate, "tokens/s", **labels)
        measure("tflops_per_gpu", tflops, "TFLOP/s", **labels)
        measure("step_time_s", seconds, "s", **labels)
        for rank, gib in enumerate(memory):
            measure("memory_gib", gib, "GiB", rank=rank, **labels)
        if self.job.first:
            held = " ".join(f"{gib:5.1f}" for gib in memory)
            print(
                f"round {number} | {contestant.name:8s} | tokens/s "
                f"{rate:10,.0f} | TFLOP/s/GPU {tflops:6.1f} | GiB {held}",
                flush=True,
            )

    def profile(self, contestant: Contestant, artifacts: Path) -> None:
        """Profile a few steps of a layout on every rank."""
        trainer = Trainer(
            contestant, self.config, self.job, not self.args.small
        )
        batches = self.batches(trainer)
        after = self.args.warmup_steps
        profiler = RankProfile(
            artifacts / contestant.name,
            self.job,
            0,
            after,
            Labelled(self.writer, layout=contestant.name),
        )
        for number in range(after + PROFILED):
            profiler.at(number)
            trainer.step(batches.on(self.job.device, number))
        profiler.at(after + PROFILED)
        forget()


def main() -> None:
    """Run all rounds, then the profiles."""
    with joined() as job:
        comparison = Comparison(job, together(parse))
        for number in range(comparison.args.rounds):
            comparison.round(number)
        if comparison.args.profile:
            artifacts = Path(os.environ.get("WORKSHOP_ARTIFACTS", "."))
            for contestant in comparison.contestants:
                comparison.profile(contestant, artifacts)
        comparison.writer.close()


if __name__ == "__main__":
    main()
