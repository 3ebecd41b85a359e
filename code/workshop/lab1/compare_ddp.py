"""torchrun --standalone --nproc-per-node 2 -m workshop.lab1.compare_ddp

Trains the same GPT in several ways, in turn, in one job: one GPU alone, all
GPUs without communication, our data parallelism (naive, overlapped, and
overlapped by collectives only), torch's DDP with buckets of the same size,
and nanoGPT with --peer, whose DDP has its own default. Each round takes
every contestant once, so a drift of clocks or temperature meets all of them
alike.
"""

import argparse
import os
from pathlib import Path
from statistics import mean

from workshop.bench.bench import Bench, settled
from workshop.bench.contestants import (
    BUCKET_MIB,
    CLIP,
    LR,
    alone,
    forget,
    our_trainer,
)
from workshop.groups import make_groups
from workshop.job.failures import joined
from workshop.job.launch import Job, together
from workshop.job.options import Parser, check_numbers
from workshop.layout import Layout
from workshop.models.gpt import CONFIGS
from workshop.peers.nanogpt import NanoGPT, NanoGPTTrainer
from workshop.training.report import memory_gib
from workshop.training.trainer import Trainer

SEED = 1
# What each is called in a record, and how it averages gradients.
OURS = {
    "single": None,
    "alone": None,
    "naive": "naive",
    "overlapped": "overlapped",
    "overlapped-collective": "overlapped-collective",
    "ddp": "ddp",
}
PEERS = ("nanogpt-alone", "nanogpt-ddp")
TRACED = ("alone", "overlapped", "overlapped-collective", "ddp")
SMALL = {"model": "tiny", "micro_batch": 2, "steps": 2, "warmup_steps": 1}


def parse() -> argparse.Namespace:
    """Return the arguments; without a GPU `--small` goes without saying."""
    parser = Parser(description=__doc__.split("\n\n")[1])
    add = parser.add_argument
    add("--model", choices=list(CONFIGS), default="gpt-1.3b")
    add("--micro-batch", type=int, default=16, help="sequences at once")
    add("--rounds", type=int, default=3, help="turns of each contestant")
    add("--warmup-steps", type=int, default=4, help="untimed, each turn")
    add("--steps", type=int, default=12, help="timed steps of a turn")
    add("--bucket-mib", type=float, default=BUCKET_MIB, help="of everyone")
    add("--peer", type=Path, metavar="DIR", help="a clone of nanoGPT")
    add("--trace", action="store_true", help="profile some contestants")
    add("--small", action="store_true", help="tiny model, two steps")
    args = settled(parser, SMALL)
    check_numbers(args, {}, ("bucket_mib",))
    args.compile = not args.small
    return args


class Comparison(Bench):
    """The contestants, and what is measured of them."""

    def __init__(self, job: Job, args: argparse.Namespace) -> None:
        config = CONFIGS[args.model]
        self.peer = (
            together(
                lambda: NanoGPT(args.peer, config, job, args.compile, LR)
            )
            if args.peer
            else None
        )
        super().__init__(
            job,
            args,
            model=args.model,
            micro_batch=args.micro_batch,
            steps=args.steps,
            rounds=args.rounds,
            bucket_mib=args.bucket_mib,
            seed=SEED,
            nanogpt_model_sha256=self.peer.sha256 if self.peer else None,
        )
        layout = Layout(dp=job.world_size, micro_batch=args.micro_batch)
        self.groups, self.alone = make_groups(layout), alone(job)
        self.dealt = self.batches(layout, SEED)

    def names(self) -> list[str]:
        """Return the contestants of a round, in order."""
        return [*OURS, *(PEERS if self.peer else ())]

    def trainer(self, name: str) -> Trainer:
        """Return a contestant's trainer, built anew (nanoGPT is kept)."""
        if name in PEERS:
            return NanoGPTTrainer(self.peer, name == "nanogpt-alone", CLIP)
        way = OURS[name]
        return our_trainer(
            self.config,
            self.job.device,
            self.groups if way else self.alone,
            self.args.compile,
            way or "overlapped",
            self.args.bucket_mib,
        )

    def turn(self, name: str) -> tuple[float, float]:
        """Return this rank's median seconds a step and its peak GiB.

        In `single` the other ranks take no part: infinite seconds.
        """
        if name == "single" and not self.job.first:
            return float("inf"), 0.0
        seconds, _ = self.timed(self.trainer(name), self.dealt)
        return seconds, memory_gib(self.job.device)

    def round(self, number: int) -> None:
        """Let every contestant take its turn and write what it reached."""
        rates: dict[str, float] = {}
        self.write_matrix_rate(number)
        for name in self.names():
            mine = self.turn(name)
            forget()
            turns = self.everyone(mine)
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
        self.say(
            f"round {number} | {name:21s} | tokens/s/GPU {rate:10,.0f} "
            f"| TFLOP/s/GPU {tflops:6.1f} | {gib:5.1f} GiB"
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
        self.profile_steps(
            self.trainer(name),
            self.dealt,
            artifacts / name,
            every_rank=False,
            contestant=name,
        )
        forget()


def main() -> None:
    """Run all rounds, then the traces."""
    with joined() as job:
        comparison = Comparison(job, together(parse))
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
