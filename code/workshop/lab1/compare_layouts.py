"""torchrun --standalone --nproc-per-node 2 -m workshop.lab1.compare_layouts

Trains the same GPT by data, tensor, sequence and pipeline parallelism over
all ranks, in turn, in one job, and each rank alone for comparison. Each
round takes every layout once, so a drift of clocks or temperature meets all
of them alike.
"""

import argparse
import os
from contextlib import closing
from pathlib import Path

from workshop.bench.bench import SMALL, Bench, in_gib, settled
from workshop.bench.contestants import (
    SEED,
    Contestant,
    forget,
    one_strategy_each,
    trainer_of,
)
from workshop.data.batches import Batches
from workshop.errors import UserError
from workshop.job.failures import joined
from workshop.job.launch import Job, together
from workshop.job.options import Parser
from workshop.models.gpt import CONFIGS
from workshop.training.fit import check_fit
from workshop.training.report import memory_gib


def parse() -> argparse.Namespace:
    """Return the arguments; without a GPU `--small` goes without saying."""
    parser = Parser(description=__doc__.split("\n\n")[1])
    add = parser.add_argument
    add("--model", choices=list(CONFIGS), default="gpt-1.3b")
    add("--micro-batch", type=int, default=16, help="sequences, at most")
    add("--piece", type=int, default=4, help="the same in the pipeline")
    add("--num-microbatches", type=int, default=16, help="of the pipeline")
    add("--rounds", type=int, default=3, help="turns of each layout")
    add("--warmup-steps", type=int, default=4, help="untimed, each turn")
    add("--steps", type=int, default=10, help="timed steps of a turn")
    add("--only", metavar="NAMES", help="these layouts, comma-separated")
    add("--profile", action="store_true", help="profile a turn of each")
    add("--small", action="store_true", help="small model, two steps")
    # Two ranks of two chunks need four layers.
    return settled(parser, {**SMALL, "model": "mini"})


class Comparison(Bench):
    """The layouts, and what is measured of them."""

    def __init__(self, job: Job, args: argparse.Namespace) -> None:
        self.job, self.args = job, args
        self.contestants = together(self.chosen)
        described = {k: v for k, v in vars(args).items() if k != "only"}
        super().__init__(job, args, seed=SEED, **described)

    def chosen(self) -> list[Contestant]:
        """Return the layouts of a round.

        Raises:
            UserError: `--only` names one that there is not, or the model
                does not fit one.
        """
        args, world = self.args, self.job.world_size
        if world < 2:
            raise UserError(
                "one rank has nothing to share a model with: launch two or "
                "more with torchrun --nproc-per-node"
            )
        every = one_strategy_each(
            world, args.micro_batch, args.piece, args.num_microbatches
        )
        for contestant in every:
            check_fit(CONFIGS[args.model], contestant.layout)
        if args.only is None:
            return every
        names = args.only.split(",")
        known = [contestant.name for contestant in every]
        for name in names:
            if name not in known:
                raise UserError(
                    f"--only {name} is no layout of {world} ranks: choose "
                    f"from {', '.join(known)}"
                )
        return [c for c in every if c.name in names]

    def batches_of(self, contestant: Contestant) -> Batches:
        """Return the batches of a layout."""
        return self.batches(contestant.layout, SEED, contestant.alone)

    def trainer(self, contestant: Contestant) -> closing:
        """Build a layout's trainer, to be closed at the end."""
        return closing(
            trainer_of(contestant, self.config, self.job, not self.args.small)
        )

    def turn(self, contestant: Contestant) -> tuple[float, float]:
        """Return this rank's median seconds a step and its peak GiB."""
        with self.trainer(contestant) as trainer:
            seconds, _ = self.timed(trainer, self.batches_of(contestant))
        return seconds, memory_gib(self.job.device)

    def round(self, number: int) -> None:
        """Let every layout take its turn and write what it reached."""
        rates: dict[str, float] = {}
        self.write_matrix_rate(number)
        for contestant in self.contestants:
            mine = self.turn(contestant)
            forget()
            times, memory = zip(*self.everyone(mine), strict=True)
            name = contestant.name
            labels = {"layout": name, "round": number}
            tokens = (
                contestant.sequences(self.job.world_size)
                * self.config.sequence
            )
            rates[name], tflops = self.write_speed(
                tokens, max(times), memory, **labels
            )
            self.say(
                f"round {number} | {name:8s} | tokens/s {rates[name]:10,.0f} "
                f"| TFLOP/s/GPU {tflops:6.1f} | {in_gib(memory)}"
            )
            if "alone" in rates and not contestant.alone:
                share = rates[name] / rates["alone"]
                self.writer.measure("scaling_efficiency", share, "", **labels)

    def profile(self, contestant: Contestant, artifacts: Path) -> None:
        """Profile a few steps of a layout on every rank."""
        with self.trainer(contestant) as trainer:
            self.profile_steps(
                trainer,
                self.batches_of(contestant),
                artifacts / contestant.name,
                layout=contestant.name,
            )


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
                forget()
        comparison.writer.close()


if __name__ == "__main__":
    main()
