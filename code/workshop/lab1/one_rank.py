"""python -m workshop.lab1.one_rank

Measures what one rank of a layout computes and holds, alone on one device:
forward, backward and update of a micro-batch, memory of the states and at
the peak, for every pipeline stage. A layout is named by its sizes: dp2,
tp2, tp2sp (sequence parallel), pp2, pp2cut12 (12 layers on the first
stage), tp2pp2; tp2@8 has micro-batches of 8. With the links' α and β this
predicts the layout before anyone has its GPUs.
"""

import argparse
import gc
from contextlib import nullcontext
from dataclasses import asdict
from statistics import median

import torch

from workshop.bench.bench import settled
from workshop.bench.rank_alone import RankAlone, pretended
from workshop.errors import UserError, one_sentence
from workshop.estimate.memory import rank_bytes, state_bytes
from workshop.job.launch import fastest_attention
from workshop.job.metrics import MetricsWriter, metrics_path
from workshop.job.options import Parser
from workshop.layout import Layout
from workshop.models.gpt import CONFIGS, GPTConfig
from workshop.training.fit import check_fit

LAYOUTS = "dp1,dp2,tp2,tp2sp,pp2@4,pp2cut12@4"
SMALL_LAYOUTS = "dp1,dp2,tp2,tp2sp,pp2,pp2cut1"
SMALL = {
    "model": "tiny",
    "micro_batch": 2,
    "num_microbatches": 2,
    "rounds": 1,
    "warmup_steps": 1,
    "steps": 2,
}
PARTS = ("forward", "backward", "update")
GIB = 2**30


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the arguments; without a GPU `--small` goes without saying."""
    parser = Parser(
        description="Measure one rank of a layout alone.",
    )
    add = parser.add_argument
    add("--model", choices=list(CONFIGS), default="gpt-1.3b")
    add("--micro-batch", type=int, default=16, help="sequences at once")
    add(
        "--num-microbatches",
        type=int,
        default=16,
        help="of a step of a pipeline: those in flight count at the peak",
    )
    add("--layouts", help=f"names, with commas between [{LAYOUTS}]")
    add("--rounds", type=int, default=3, help="turns of each layout")
    add("--warmup-steps", type=int, default=2, help="untimed, each turn")
    add("--steps", type=int, default=5, help="timed steps of a turn")
    add("--small", action="store_true", help="tiny model, one round")
    args = settled(parser, SMALL, argv)
    if args.layouts is None:
        args.layouts = SMALL_LAYOUTS if args.small else LAYOUTS
    return args


def layout_of(
    text: str, args: argparse.Namespace, config: GPTConfig
) -> Layout:
    """Return the layout of a name such as tp2 or pp2cut12@4.

    Raises:
        UserError: the name means none, or none that fits the model.
    """
    name, at, size = text.partition("@")
    if at and not (size.isdecimal() and int(size)):
        raise UserError(
            f"{text} has no micro-batch after @: write {name}@8, or {name}"
        )
    try:
        layout = Layout.from_name(
            name,
            config.layers,
            micro_batch=int(size) if at else args.micro_batch,
            num_microbatches=args.num_microbatches,
        )
        check_fit(config, layout)
        if layout.virtual_stages > 1:
            raise UserError(f"{text} has several chunks a rank, give it one")
    except UserError as error:
        raise UserError(f"{error} (choose others with --layouts)") from None
    return layout if layout.pp > 1 else layout.replace(num_microbatches=1)


class Bench:
    """What is measured of each layout, and where it is written."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.config: GPTConfig = CONFIGS[args.model]
        cuda = torch.cuda.is_available()
        self.device = torch.device("cuda", 0) if cuda else torch.device("cpu")
        self.layouts = {
            name: layout_of(name, args, self.config)
            for name in args.layouts.split(",")
        }
        self.full: set[tuple[str, int]] = set()
        self.writer = MetricsWriter(metrics_path(None))
        device = torch.cuda.get_device_name(0) if cuda else "cpu"
        self.writer.meta(**vars(args), **self.model, device=device)

    @property
    def model(self) -> dict:
        """The model's sizes, as the estimates take them."""
        return asdict(self.config)

    @property
    def precision(self) -> str:
        """How parameters are kept: in 16 bits on a GPU."""
        on_gpu = self.device.type == "cuda"
        return "bf16-weights" if on_gpu else "float32"

    def round(self, number: int) -> None:
        """Let every stage of every layout take its turn."""
        for name, layout in self.layouts.items():
            for stage in range(layout.pp):
                if (name, stage) in self.full:
                    continue
                try:
                    self.turn(name, layout, stage, number)
                except torch.OutOfMemoryError:
                    self.full.add((name, stage))
                self.forget()
                if (name, stage) in self.full:
                    self.refuse(name, layout, stage)

    def turn(
        self, name: str, layout: Layout, stage: int, number: int
    ) -> None:
        """Build a rank, measure it, write what it took."""
        labels = {
            "layout": name.partition("@")[0],
            "micro_batch": layout.micro_batch,
            "stage": stage,
        }
        measure = self.writer.measure
        with pretended(layout, stage) as groups:
            rank = RankAlone(
                self.config,
                groups,
                self.device,
                compiled=not self.args.small,
            )
            for _ in range(self.args.warmup_steps):
                rank.timed_step()
            steps = [rank.timed_step() for _ in range(self.args.steps)]
            seconds = [median(times) for times in zip(*steps, strict=True)]
            for part, value in zip(PARTS, seconds, strict=True):
                measure(
                    f"{part}_ms", value * 1e3, "ms", round=number, **labels
                )
            line = f"round {number} | {name:10s} stage {stage} | "
            line += " | ".join(
                f"{part} {value * 1e3:7.2f} ms"
                for part, value in zip(PARTS, seconds, strict=True)
            )
            if number == 0:
                line += self.memory(rank, labels)
            print(line, flush=True)

    def memory(self, rank: RankAlone, labels: dict) -> str:
        """Measure a rank's memory; return it in words."""
        states = rank.state_bytes() / GIB
        self.writer.measure("state_gib", states, "GiB", **labels)
        words = f" | states {states:6.2f} GiB"
        if self.device.type != "cuda":
            return words
        torch.cuda.reset_peak_memory_stats()
        rank.hold()
        peak = torch.cuda.max_memory_allocated() / GIB
        self.writer.measure("peak_gib", peak, "GiB", **labels)
        predicted = rank_bytes(
            self.model,
            rank.layout,
            rank.stage,
            self.precision,
            buckets=rank.layout.dp > 1,
        )["total"]
        return (
            f" | peak {peak:6.2f} GiB, predicted {predicted / GIB:6.2f} GiB"
        )

    def refuse(self, name: str, layout: Layout, stage: int) -> None:
        """Write that a rank does not fit, and what it would need."""
        need = rank_bytes(self.model, layout, stage, self.precision)["total"]
        states = state_bytes(self.model, layout, stage, self.precision)
        _, whole = torch.cuda.mem_get_info()
        self.writer.measure(
            "out_of_memory",
            1,
            "",
            layout=name.partition("@")[0],
            micro_batch=layout.micro_batch,
            stage=stage,
        )
        print(
            f"{name} stage {stage} does not fit: weights, gradients and "
            f"optimizer take {sum(states.values()) / GIB:.1f} GiB, with "
            f"activations {need / GIB:.1f} GiB at the peak, and the device "
            f"has {whole / GIB:.1f} GiB",
            flush=True,
        )

    def forget(self) -> None:
        """Free what the last rank held."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


@one_sentence
def main() -> None:
    """Measure every layout in turn, as many rounds as asked for."""
    bench = Bench(parse())
    cuda = bench.device.type == "cuda"
    # Every layout has shapes of its own, and all keep what they compiled.
    with (
        torch._dynamo.config.patch(recompile_limit=256),
        fastest_attention() if cuda else nullcontext(),
    ):
        for number in range(bench.args.rounds):
            bench.round(number)
    bench.writer.close()


if __name__ == "__main__":
    main()
