"""torchrun --standalone --nproc-per-node 2 -m workshop.lab1.sweep_pipeline

Runs one pipeline over all ranks with 1 to 32 micro-batches a step, in one
process: 1F1B and eager 1F1B for each number, GPipe and interleaved 1F1B for
two of them.
Says how much of a step is bubble, from the executed operations, beside the
formula.
"""

import argparse
import json
import os
from pathlib import Path

import torch

from workshop.bench.bench import Bench, in_gib, settled
from workshop.bench.contestants import (
    LR,
    SEED,
    Contestant,
    forget,
    trainer_of,
)
from workshop.errors import UserError
from workshop.estimate.pipeline import bubble_over_total
from workshop.job.failures import joined
from workshop.job.launch import Job, together
from workshop.job.options import Parser
from workshop.layout import Layout
from workshop.models.gpt import CONFIGS
from workshop.parallel.pipeline.executor import Pipeline
from workshop.parallel.pipeline.schedule import make_schedule
from workshop.parallel.pipeline.timeline import Timeline
from workshop.training.layout_trainer import LayoutTrainer
from workshop.training.report import memory_gib

NUMBERS = (1, 2, 4, 8, 16, 32)
OTHERS = (4, 16)
CHUNKS = 2
DRAWN = 16
"""The most micro-batches whose operations are kept, to be drawn."""
MODES = {"1f1b": 1, "eager-1f1b": 1, "gpipe": 1, "interleaved": CHUNKS}
SMALL = {
    "model": "mini",
    "micro_batch": 1,
    "steps": 2,
    "warmup_steps": 1,
    "rounds": 1,
}


def parse() -> argparse.Namespace:
    """Return the arguments; without a GPU `--small` goes without saying."""
    parser = Parser(description=__doc__.split("\n\n")[1])
    add = parser.add_argument
    add("--model", choices=list(CONFIGS), default="gpt-1.3b")
    add("--micro-batch", type=int, default=4, help="sequences at once")
    add("--rounds", type=int, default=3, help="turns of each setting")
    add("--warmup-steps", type=int, default=2, help="untimed, each turn")
    add("--steps", type=int, default=4, help="timed steps of a turn")
    add("--small", action="store_true", help="small model, two steps")
    return settled(parser, SMALL)


def settings(p: int) -> list[tuple[str, int]]:
    """Return every schedule with its numbers of micro-batches.

    Interleaved schedules take multiples of p.
    """
    return [
        *((name, m) for m in NUMBERS for name in ("1f1b", "eager-1f1b")),
        *(("gpipe", m) for m in OTHERS),
        *(("interleaved", m) for m in OTHERS if m % p == 0),
    ]


class Sweep(Bench):
    """What is measured of every schedule."""

    def __init__(self, job: Job, args: argparse.Namespace) -> None:
        def check() -> None:
            if job.world_size < 2:
                raise UserError(
                    "one rank is no pipeline: launch two or more with "
                    "torchrun --nproc-per-node"
                )

        together(check)
        super().__init__(job, args, **vars(args), seed=SEED)

    def run(self) -> None:
        """Build the stages once for each number of chunks and measure."""
        p = self.job.world_size
        for v in (1, CHUNKS):
            first = "1f1b" if v == 1 else "interleaved"
            layout = Layout(
                pp=p,
                schedule=first,
                virtual_stages=v,
                micro_batch=self.args.micro_batch,
                num_microbatches=p,
            )
            trainer = trainer_of(
                Contestant(layout.name, layout),
                self.config,
                self.job,
                not self.args.small,
            )
            chosen = [x for x in settings(p) if MODES[x[0]] == v]
            for number in range(self.args.rounds):
                for schedule, m in chosen:
                    self.turn(trainer, schedule, m, number)
            trainer.close()
            del trainer
            forget()

    def turn(
        self, trainer: LayoutTrainer, schedule: str, m: int, number: int
    ) -> None:
        """Time a few steps of one setting, then read one step's trace."""
        device, layout = self.job.device, trainer.groups.layout
        pipeline: Pipeline = trainer.runner
        pipeline.reorder(
            make_schedule(schedule, layout.pp, m, layout.virtual_stages)
        )
        batches = self.batches(
            layout.replace(schedule=schedule, num_microbatches=m), SEED
        )
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        pipeline.align = False
        seconds, _ = self.timed(trainer, batches)
        # The ranks wait for each other before a step that is drawn.
        pipeline.align = True
        for step in range(2):
            trainer.step(batches.on(device, step), LR)
        mine = seconds, memory_gib(device), pipeline.trace_times()
        self.write(schedule, m, number, self.everyone(mine))

    def write(
        self, schedule: str, m: int, number: int, ranks: list[tuple]
    ) -> None:
        """Write speed, memory and the shares of the traced step."""
        p, v = self.job.world_size, MODES[schedule]
        times, memory, traces = zip(*ranks, strict=True)
        trace = Timeline(list(traces))
        shares = trace.shares()
        due = bubble_over_total(p, m, v)
        labels = {"schedule": schedule, "m": m, "round": number}
        rate, _ = self.write_speed(
            self.args.micro_batch * m * self.config.sequence,
            max(times),
            memory,
            **labels,
        )
        measure = self.writer.measure
        measure("bubble", shares.bubble, "", **labels)
        measure("imbalance", shares.imbalance, "", **labels)
        measure("predicted_bubble", due, "", **labels)
        if self.job.first and number == 0 and m <= DRAWN:
            keep(trace, f"{schedule}-m{m}.json")
        self.say(
            f"round {number} | {schedule:11s} m {m:2d} | tokens/s "
            f"{rate:10,.0f} | bubble {shares.bubble:6.1%} (formula "
            f"{due:6.1%}) | imbalance {shares.imbalance:6.1%} | "
            f"{in_gib(memory)}"
        )


def keep(trace: Timeline, name: str) -> None:
    """Write the operations of a step where a record keeps artifacts."""
    folder = Path(os.environ.get("WORKSHOP_ARTIFACTS", "."))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(trace.rows()))


def main() -> None:
    """Measure every setting in every round."""
    with joined() as job:
        args = together(parse)
        sweep = Sweep(job, args)
        sweep.run()
        sweep.writer.close()


if __name__ == "__main__":
    main()
