"""torchrun --standalone --nproc-per-node 2 -m workshop.lab1.sweep_pipeline

Runs one pipeline over all ranks with 1 to 32 micro-batches a step, in one
process: 1F1B for each number, GPipe and interleaved 1F1B for two of them.
Says how much of a step is bubble, from the executed operations, beside the
formula.
"""

import argparse
import json
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
from workshop.lab1.compare.layouts import SEED, Contestant, Trainer
from workshop.lab1.pretrain_gpt import device_name, prepare
from workshop.models.gpt import CONFIGS, GPT, num_parameters
from workshop.parallel.pipeline_timeline import Timeline
from workshop.training.clock import StepClock
from workshop.training.failures import joined
from workshop.training.hybrid import Pipelined
from workshop.training.launch import Job, together
from workshop.training.layout import Layout
from workshop.training.metrics import MetricsWriter, metrics_path
from workshop.training.report import memory_gib

NUMBERS = (1, 2, 4, 8, 16, 32)
OTHERS = (4, 16)
CHUNKS = 2
DRAWN = 16
"""The most micro-batches whose operations are kept, to be drawn."""
MODES = {"1f1b": 1, "gpipe": 1, "interleaved": CHUNKS}


def parse() -> argparse.Namespace:
    """Return the arguments; without a GPU `--small` goes without saying."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[2])
    add = parser.add_argument
    add("--model", choices=list(CONFIGS), default="gpt-1.3b")
    add("--micro-batch", type=int, default=4, help="sequences at once")
    add("--rounds", type=int, default=3, help="turns of each setting")
    add("--warmup-steps", type=int, default=2, help="untimed, each turn")
    add("--steps", type=int, default=4, help="timed steps of a turn")
    add("--small", action="store_true", help="small model, two steps")
    args = parser.parse_args()
    if args.small or not torch.cuda.is_available():
        args.small = True
        args.model, args.micro_batch = "mini", 1
        args.steps, args.warmup_steps, args.rounds = 2, 1, 1
    args.corpus = args.hf_dataset = None
    args.corpus_mib = 1.0
    args.vocabulary = 1024 if args.small else 16384
    return args


def settings(p: int) -> list[tuple[str, int]]:
    """Return every schedule with its numbers of micro-batches.

    Interleaved schedules take multiples of p.
    """
    return [
        *(("1f1b", m) for m in NUMBERS),
        *(("gpipe", m) for m in OTHERS),
        *(("interleaved", m) for m in OTHERS if m % p == 0),
    ]


def predicted_bubble(p: int, m: int, v: int) -> float:
    """Return the bubble's share of a step with equal stages.

    (p-1)/(vm+p-1): Narayanan et al. 2021 (arXiv 2104.04473), section 2.2,
    over the whole time in the place of the ideal.
    """
    return (p - 1) / (v * m + p - 1)


class Sweep:
    """The data, and what is measured of every schedule."""

    def __init__(self, job: Job, args: argparse.Namespace) -> None:
        self.job, self.args = job, args
        self.config = CONFIGS[args.model]
        if job.world_size < 2:
            raise UserError(
                "one rank is no pipeline: launch two or more with torchrun "
                "--nproc-per-node"
            )
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
            **vars(args),
            seed=SEED,
            world_size=job.world_size,
            device=device_name(job),
            parameters=parameters,
            flops_per_token=self.flops,
            peak_flops=peak_flops(device_name(job)),
            corpus_sha256=corpus.sha256,
            tokenizer_sha256=tokenizer.sha256,
        )

    def run(self) -> None:
        """Build the stages once for each number of chunks and measure."""
        p = self.job.world_size
        for v in (1, CHUNKS):
            first = "1f1b" if v == 1 else "interleaved"
            layout = Layout(pipeline=p, schedule=first, virtual_stages=v)
            contestant = Contestant(
                f"pp{p}", layout, self.args.micro_batch, p
            )
            trainer = Trainer(
                contestant, self.config, self.job, not self.args.small
            )
            chosen = [x for x in settings(p) if MODES[x[0]] == v]
            for number in range(self.args.rounds):
                for schedule, m in chosen:
                    self.turn(trainer, schedule, m, number)
            del trainer
            forget()

    def turn(
        self, trainer: Trainer, schedule: str, m: int, number: int
    ) -> None:
        """Time a few steps of one setting, then read one step's trace."""
        device, args = self.job.device, self.args
        batches = Batches(
            self.tokens, self.config.sequence, args.micro_batch, m, 0, 1, SEED
        )
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        trainer.reorder(schedule, m, align=False)
        clock, marks = StepClock(device), []
        for step in range(args.warmup_steps + args.steps):
            values = trainer.step(batches.on(device, step))
            marks.append(clock.mark(step, values))
        seconds = [mark.read()[1] for mark in marks][args.warmup_steps :]
        trainer.reorder(schedule, m, align=True)
        trainer.step(batches.on(device, 0))
        trainer.step(batches.on(device, 1))
        strategy = trainer.strategy
        assert isinstance(strategy, Pipelined)
        mine = (
            median(seconds),
            memory_gib(device),
            strategy.pipeline.trace_times(),
        )
        ranks: list = [None] * self.job.world_size
        dist.all_gather_object(ranks, mine)
        self.write(schedule, m, number, ranks)

    def write(
        self, schedule: str, m: int, number: int, ranks: list[tuple]
    ) -> None:
        """Write speed, memory and the shares of the traced step."""
        p, v = self.job.world_size, MODES[schedule]
        seconds = max(rank[0] for rank in ranks)
        tokens = self.args.micro_batch * m * self.config.sequence
        rate = tokens / seconds
        trace = Timeline([rank[2] for rank in ranks])
        shares = trace.shares()
        due = predicted_bubble(p, m, v)
        labels = {"schedule": schedule, "m": m, "round": number}
        measure = self.writer.measure
        measure("tokens_per_s", rate, "tokens/s", **labels)
        measure("step_time_s", seconds, "s", **labels)
        measure(
            "tflops_per_gpu",
            rate / p * self.flops / 1e12,
            "TFLOP/s",
            **labels,
        )
        measure("bubble", shares.bubble, "", **labels)
        measure("imbalance", shares.imbalance, "", **labels)
        measure("predicted_bubble", due, "", **labels)
        for rank, (_, gib, _) in enumerate(ranks):
            measure("memory_gib", gib, "GiB", rank=rank, **labels)
        if self.job.first:
            if number == 0 and m <= DRAWN:
                keep(trace, f"{schedule}-m{m}.json")
            held = " ".join(f"{gib:5.1f}" for _, gib, _ in ranks)
            print(
                f"round {number} | {schedule:11s} m {m:2d} | tokens/s "
                f"{rate:10,.0f} | bubble {shares.bubble:6.1%} (formula "
                f"{due:6.1%}) | imbalance {shares.imbalance:6.1%} | GiB "
                f"{held}",
                flush=True,
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
        sweep = together(lambda: Sweep(job, args))
        sweep.run()
        sweep.writer.close()


if __name__ == "__main__":
    main()
