"""torchrun --standalone --nproc-per-node 2 -m workshop.lab1.compare_ddp

Trains the same GPT in several ways, in turn, in one job: one GPU alone, all
GPUs without communication, our data parallelism (naive, overlapped, and
overlapped by collectives only), torch's DDP, and nanoGPT with --peer. Each
round takes every contestant once, so a drift of clocks or temperature meets
all of them alike.
"""

import argparse
import os
import tempfile
from pathlib import Path
from statistics import mean, median

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile, record_function

from workshop.data.batches import Batches
from workshop.estimate.flops import flops_per_token
from workshop.estimate.hardware import peak_flops
from workshop.lab1.compare.contestants import (
    OURS,
    PEERS,
    NanoGPT,
    Step,
    forget,
    ours,
)
from workshop.lab1.pretrain_gpt import device_name, prepare
from workshop.models.gpt import CONFIGS, GPT, num_parameters
from workshop.training import trace
from workshop.training.clock import StepClock
from workshop.training.failures import joined
from workshop.training.launch import Job, together
from workshop.training.metrics import MetricsWriter, metrics_path
from workshop.training.report import memory_gib

SEED = 1
TRACED = ("alone", "overlapped", "overlapped-collective", "ddp")
TRACED_STEPS = 3


def parse() -> argparse.Namespace:
    """Return the arguments; without a GPU `--small` goes without saying."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[2])
    add = parser.add_argument
    add("--model", choices=list(CONFIGS), default="gpt-1.3b")
    add("--micro-batch", type=int, default=16, help="sequences at once")
    add("--rounds", type=int, default=3, help="turns of each contestant")
    add("--warmup-steps", type=int, default=4, help="untimed, each turn")
    add("--steps", type=int, default=12, help="timed steps of a turn")
    add("--peer", type=Path, metavar="DIR", help="a clone of nanoGPT")
    add("--trace", action="store_true", help="profile some contestants")
    add("--small", action="store_true", help="tiny model, two steps")
    args = parser.parse_args()
    if args.small or not torch.cuda.is_available():
        args.small = True
        args.model, args.micro_batch, args.steps = "tiny", 2, 2
        args.warmup_steps = 1
    args.corpus = args.hf_dataset = None
    args.corpus_mib = 1.0
    args.vocabulary = 1024 if args.model == "tiny" else 16384
    args.compile = not args.small
    return args


class Comparison:
    """The data, the contestants, and what is measured of them."""

    def __init__(self, job: Job, args: argparse.Namespace) -> None:
        self.job, self.args = job, args
        self.config = CONFIGS[args.model]
        corpus, tokenizer, tokens = prepare(job, args)
        self.batches = Batches(
            tokens[0],
            self.config.sequence,
            args.micro_batch,
            1,
            job.rank,
            job.world_size,
            SEED,
        )
        self.peer = (
            together(
                lambda: NanoGPT(args.peer, self.config, job, args.compile)
            )
            if args.peer
            else None
        )
        with torch.device("meta"):
            self.parameters = num_parameters(GPT(self.config))
        self.flops = flops_per_token(
            self.parameters,
            self.config.layers,
            self.config.hidden,
            self.config.sequence,
        )
        path = metrics_path(None) if job.first else None
        self.writer = together(lambda: MetricsWriter(path))
        self.writer.meta(
            model=args.model,
            micro_batch=args.micro_batch,
            steps=args.steps,
            rounds=args.rounds,
            seed=SEED,
            world_size=job.world_size,
            device=device_name(job),
            parameters=self.parameters,
            flops_per_token=self.flops,
            peak_flops=peak_flops(device_name(job)),
            corpus_sha256=corpus.sha256,
            tokenizer_sha256=tokenizer.sha256,
            nanogpt_model_sha256=self.peer.sha256 if self.peer else None,
        )

    def names(self) -> list[str]:
        """Return the contestants of a round, in order."""
        return [*OURS, *(PEERS if self.peer else ())]

    def step(self, name: str) -> Step:
        """Return a contestant's step, built anew (nanoGPT is kept)."""
        if name in PEERS:
            return self.peer.step(name)
        return ours(name, self.config, self.job, self.args.compile)

    def turn(self, name: str) -> tuple[float, float]:
        """Return this rank's median seconds a step and its peak GiB.

        In `single` the other ranks take no part: infinite seconds.
        """
        if name == "single" and not self.job.first:
            return float("inf"), 0.0
        step = self.step(name)
        clock = StepClock(self.job.device)
        marks = []
        total = self.args.warmup_steps + self.args.steps
        for number in range(total):
            (batch,) = self.batches.on(self.job.device, number)
            marks.append(clock.mark(number, step(*batch).view(1)))
        seconds = [mark.read()[1] for mark in marks]
        measured = seconds[self.args.warmup_steps :]
        return median(measured), memory_gib(self.job.device)

    def round(self, number: int) -> None:
        """Let every contestant take its turn and write what it reached."""
        rates: dict[str, float] = {}
        for name in self.names():
            mine = self.turn(name)
            forget()
            # Objects travel by gloo: a waiting GPU stays idle and cool.
            turns: list = [None] * self.job.world_size
            dist.all_gather_object(turns, mine)
            tokens = self.args.micro_batch * self.config.sequence
            each = [tokens / seconds for seconds, _ in turns]
            if name == "single":
                each = each[:1]
            rates[name] = mean(each)
            self.write(name, number, each, max(gib for _, gib in turns))
            self.compare(name, number, rates)

    def write(
        self, name: str, number: int, each: list[float], gib: float
    ) -> None:
        """Write the speed of one turn, of all ranks and of each."""
        rate = mean(each)
        tflops = rate * self.flops / 1e12
        labels = {"contestant": name, "round": number}
        measure = self.writer.measure
        measure("tokens_per_s_per_gpu", rate, "tokens/s", **labels)
        measure("tflops_per_gpu", tflops, "TFLOP/s", **labels)
        measure("memory_gib", gib, "GiB", **labels)
        if name == "alone":
            for rank, speed in enumerate(each):
                measure(
                    "rank_tokens_per_s",
                    speed,
                    "tokens/s",
                    rank=rank,
                    **labels,
                )
        if self.job.first:
            print(
                f"round {number} | {name:21s} | tokens/s/GPU {rate:10,.0f} "
                f"| TFLOP/s/GPU {tflops:6.1f} | {gib:5.1f} GiB",
                flush=True,
            )

    def compare(
        self, name: str, number: int, rates: dict[str, float]
    ) -> None:
        """Write the scaling efficiency of a contestant that communicates."""
        bases = {"nanogpt-ddp": ["nanogpt-alone"]}
        for base in bases.get(name, ["single", "alone"]):
            if name in ("single", "alone", "nanogpt-alone"):
                continue
            self.writer.measure(
                "scaling_efficiency",
                rates[name] / rates[base],
                "",
                contestant=name,
                base=base,
                round=number,
            )

    def trace(self, name: str, artifacts: Path) -> None:
        """Profile a few steps of a contestant on rank 0."""
        step = self.step(name)
        for number in range(self.args.warmup_steps):
            (batch,) = self.batches.on(self.job.device, number)
            step(*batch)
        torch.cuda.synchronize()
        dist.barrier()
        with profile(
            activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]
        ) as profiler:
            for number in range(TRACED_STEPS):
                (batch,) = self.batches.on(self.job.device, number)
                with record_function(f"ProfilerStep#{number}"):
                    step(*batch)
            torch.cuda.synchronize()
        if self.job.first:
            with tempfile.TemporaryDirectory() as scratch:
                whole = Path(scratch) / "trace.json"
                profiler.export_chrome_trace(str(whole))
                trace.record(
                    whole, artifacts / name, self.writer, contestant=name
                )
        forget()


def main() -> None:
    """Run all rounds, then the traces."""
    with joined() as job:
        comparison = Comparison(job, parse())
        for number in range(comparison.args.rounds):
            comparison.round(number)
        if comparison.args.trace and job.device.type == "cuda":
            artifacts = Path(os.environ.get("WORKSHOP_ARTIFACTS", "."))
            for name in TRACED:
                comparison.trace(name, artifacts)
                together(lambda: None)
        comparison.writer.close()


if __name__ == "__main__":
    main()
