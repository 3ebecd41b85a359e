r"""torchrun --standalone --nproc-per-node 2 -m workshop.lab1.compare_megatron

Trains the same GPT by this repository and by megatron-core, in the same
layouts, in turn, in one job. Each round takes every contestant once, so a
drift of clocks or temperature meets all of them alike.

A profile of each then says which kernels make the difference:

  torchrun --standalone --nproc-per-node 2 -m workshop.lab1.compare_megatron \
    --layouts dp2,tp2,tp2-sp,pp2 --profile tp2,pp2

One GPU: --nproc-per-node 1 and --layouts dp1.  Without a GPU it runs ours
alone, at a small size, and says so.
"""

import argparse
import os
from pathlib import Path

from workshop.bench.bench import SMALL, Bench, in_gib, settled
from workshop.bench.contestants import SEED, Contestant, forget, named
from workshop.bench.megatron import NAMES, ready
from workshop.errors import UserError
from workshop.job.failures import joined
from workshop.job.launch import Job, together
from workshop.job.options import Parser
from workshop.layout import Layout
from workshop.models.gpt import CONFIGS
from workshop.peers.megatron.available import check_schedule, require
from workshop.peers.megatron.kernels import side_by_side
from workshop.training.fit import check_fit
from workshop.training.report import memory_gib


def parse() -> argparse.Namespace:
    """Return the arguments; without a GPU `--small` goes without saying."""
    parser = Parser(description=__doc__.split("\n\n")[1])
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
    return settled(parser, SMALL)


class Comparison(Bench):
    """The contestants, the layouts, and what is measured of them."""

    def __init__(self, job: Job, args: argparse.Namespace) -> None:
        self.job, self.args = job, args
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
        described = {k: v for k, v in vars(args).items() if k != "profile"}
        super().__init__(
            job,
            args,
            **described,
            seed=SEED,
            contestants=self.names,
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
        chosen = []
        for name in names.split(","):
            try:
                contestant = named(
                    name, args.micro_batch, args.piece, args.num_microbatches
                )
                layout = contestant.layout
                if layout.dp == 1:  # a name may leave the copies out
                    layout = filled(layout, world)
                layout.check_world(world)
                check_schedule(layout.schedule)
                check_fit(CONFIGS[args.model], layout)
            except UserError as error:
                raise UserError(
                    f"{name}: {error} (choose others with --layouts)"
                ) from None
            chosen.append(Contestant(name, layout))
        return chosen

    def turn(self, name: str, contestant: Contestant) -> tuple[float, ...]:
        """Return this rank's median seconds a step, peak GiB, last loss."""
        with ready(name, contestant, self.config, self.job) as trainer:
            seconds, values = self.timed(
                trainer, self.batches(contestant.layout, SEED)
            )
        return seconds, memory_gib(self.job.device), values[0]

    def round(self, number: int) -> None:
        """Let every contestant take its turn in every layout."""
        for contestant in self.layouts:
            for name in self.names:
                mine = self.turn(name, contestant)
                forget()
                self.write(name, contestant, number, self.everyone(mine))

    def write(
        self,
        name: str,
        contestant: Contestant,
        number: int,
        turns: list[tuple[float, ...]],
    ) -> None:
        """Write speed, memory and loss of one turn of all ranks."""
        times, memory, losses = zip(*turns, strict=True)
        labels = {
            "contestant": name,
            "layout": contestant.name,
            "round": number,
        }
        tokens = (
            contestant.sequences(self.job.world_size) * self.config.sequence
        )
        rate, tflops = self.write_speed(tokens, max(times), memory, **labels)
        self.writer.measure("loss", losses[0], "nats/token", **labels)
        self.say(
            f"round {number} | {contestant.name:8s} | {name:14s} | tokens/s "
            f"{rate:10,.0f} | TFLOP/s/GPU {tflops:6.1f} | loss "
            f"{losses[0]:.4f} | {in_gib(memory)}"
        )

    def profile(self, contestant: Contestant, artifacts: Path) -> None:
        """Profile a few steps of every contestant, and compare them."""
        folder = artifacts / contestant.name
        for name in self.names:
            with ready(name, contestant, self.config, self.job) as trainer:
                self.profile_steps(
                    trainer,
                    self.batches(contestant.layout, SEED),
                    folder / name,
                    contestant=name,
                    layout=contestant.name,
                )
            forget()
        if self.job.first:
            print(f"\nlayout {contestant.name}")
            print(side_by_side(folder, self.names), flush=True)


def filled(layout: Layout, world_size: int) -> Layout:
    """Return a layout with as many copies as the ranks have room for."""
    sizes = layout.as_dict()
    del sizes["dp"]
    return Layout.for_world(world_size, **sizes)


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
