"""torchrun --standalone --nproc-per-node 4 -m workshop.lab1.check_layouts

Trains a small GPT in float64 in every layout that the ranks allow and
compares loss, gradient norm and every gradient with the dense model, which
each rank trains by itself beside it. It says nothing about speed.
"""

import argparse
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import nn

from workshop import collectives
from workshop.groups import Groups, make_groups
from workshop.job.failures import joined
from workshop.job.launch import Job, together
from workshop.job.metrics import MetricsWriter, metrics_path
from workshop.job.options import Parser, check_numbers
from workshop.layout import Layout
from workshop.models.gpt import GPT, GPTConfig, seeded
from workshop.parallel.placement import Shard
from workshop.training.layout_trainer import LayoutTrainer
from workshop.training.trainer import MicroBatch, Recipe

# An odd vocabulary, which tensor parallelism has to pad.
CONFIG = GPTConfig(layers=4, hidden=32, heads=4, sequence=16, vocabulary=509)
MICRO_BATCH, NUM_MICROBATCHES, SEED, RATE = 2, 4, 1, 0.1
Batch = list[MicroBatch]


@dataclass(frozen=True)
class Result:
    """What a rank saw in one layout, against the dense model.

    `error` is the largest relative error of a gradient's norm-wise
    difference over all parameters and steps; `sent` the bytes of a step.
    """

    loss: float
    norm: float
    loss_error: float
    norm_error: float
    error: float
    sent: float


def parse() -> argparse.Namespace:
    """Return the arguments."""
    parser = Parser(description=__doc__.split("\n\n")[1])
    add = parser.add_argument
    add("--steps", type=int, default=3, help="updates in each layout")
    args = parser.parse_args()
    check_numbers(args, {"steps": 1})
    return args


def layouts(world_size: int) -> list[Layout]:
    """Return every dp × tp × pp of so many ranks that divides the model.

    A pipeline appears once for each schedule, tensor parallelism with and
    without sequence parallelism.
    """
    every = []
    for tp in divisors(world_size):
        for pp in divisors(world_size // tp):
            if CONFIG.heads % tp or CONFIG.layers % pp:
                continue
            orders = [("1f1b", 1)]
            if pp > 1:
                orders.append(("gpipe", 1))
            if pp > 1 and CONFIG.layers % (2 * pp) == 0:
                orders.append(("interleaved", 2))
            for schedule, v in orders:
                for split in (False, True) if tp > 1 else (False,):
                    layout = Layout.for_world(
                        world_size,
                        tp=tp,
                        pp=pp,
                        sequence_parallel=split,
                        schedule=schedule,
                        virtual_stages=v,
                        micro_batch=MICRO_BATCH,
                        num_microbatches=NUM_MICROBATCHES,
                    )
                    every.append(layout)
    return every


def divisors(number: int) -> list[int]:
    """Return the divisors of a number, the smallest first."""
    return [d for d in range(1, number + 1) if number % d == 0]


def name_of(layout: Layout) -> str:
    """Return a layout's name, as tables show it."""
    parts = [
        f"{axis}{size}"
        for axis, size in (
            ("tp", layout.tp),
            ("pp", layout.pp),
            ("dp", layout.dp),
        )
        if size > 1
    ]
    name = " × ".join(parts) or "one rank"
    if layout.sequence_parallel:
        name += ", sequence parallel"
    if layout.pp > 1:
        name += f", {layout.schedule}"
    return name


def batch(step: int, copies: int, device: torch.device) -> list[Batch]:
    """Return the micro-batches of a step, for each data parallel index."""
    generator = torch.Generator().manual_seed(step)
    size = (MICRO_BATCH, CONFIG.sequence + 1)
    draws = [
        [
            torch.randint(CONFIG.vocabulary, size, generator=generator).to(
                device
            )
            for _ in range(NUM_MICROBATCHES)
        ]
        for _ in range(copies)
    ]
    return [[(x[:, :-1], x[:, 1:]) for x in micro] for micro in draws]


def dense(device: torch.device) -> GPT:
    """Return the dense model, with the same weights on every rank."""
    return seeded(CONFIG, SEED, device).double()


def sgd(parts: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Return an optimizer that shows a wrong scale, as AdamW does not."""
    return torch.optim.SGD(parts.parameters(), lr=lr, fused=True)


def train(groups: Groups, steps: int, device: torch.device) -> Result:
    """Train in a layout and densely, step by step, and compare."""
    layout = groups.layout
    trainer = LayoutTrainer(
        lambda: dense(device), groups, Recipe(clip=0, bucket_mib=0.01), sgd
    )
    reference = dense(device)
    theirs = torch.optim.SGD(reference.parameters(), lr=RATE)
    losses, norms, errors = [], [], []
    for step in range(steps):
        parts = batch(step, layout.dp, device)
        theirs.zero_grad()
        pairs = [pair for part in parts for pair in part]
        whole = [torch.cat(x) for x in zip(*pairs, strict=True)]
        loss = reference(*whole)
        loss.backward()
        norm = torch.linalg.vector_norm(
            torch.cat([p.grad.flatten() for p in reference.parameters()])
        )
        with collectives.count() as ledger:
            report = trainer.step(parts[groups.at.dp], RATE)
        losses.append((report[0].item(), loss.item()))
        norms.append((report[1].item(), norm.item()))
        errors.append(worst(trainer, reference))
        theirs.step()
    trainer.close()
    return Result(
        losses[-1][0],
        norms[-1][0],
        max(abs(got / due - 1) for got, due in losses),
        max(abs(got / due - 1) for got, due in norms),
        max(errors),
        ledger.bytes_sent,
    )


def worst(trainer: LayoutTrainer, reference: GPT) -> float:
    """Return the largest relative error of a gradient that this rank has."""
    rank, size = trainer.groups.at.tp, trainer.groups.layout.tp
    errors = []
    for name, parameter in trainer.parameters.items():
        due = reference.get_parameter(name).grad
        over_tp = trainer.placement[name].tp
        if isinstance(over_tp, Shard):
            due = over_tp.part(due, rank, size)
        # A part can be all padding: then the error is absolute.
        scale = due.norm().item() or 1.0
        errors.append((parameter.grad - due).norm().item() / scale)
    return max(errors)


def main() -> None:
    """Check one layout after another and write what was found."""
    with joined() as job:
        args = together(parse)
        path = metrics_path(None) if job.first else None
        with together(lambda: MetricsWriter(path)) as writer:
            writer.meta(
                world_size=job.world_size,
                steps=args.steps,
                seed=SEED,
                corpus_sha256=None,
                tokenizer_sha256=None,
                num_microbatches=NUM_MICROBATCHES,
                micro_batch=MICRO_BATCH,
            )
            made: dict[tuple, Groups] = {}
            for layout in layouts(job.world_size):
                # Making groups is slow, and schedules share them.
                sizes = layout.dp, layout.tp, layout.pp
                groups = made.get(sizes) or make_groups(layout)
                made[sizes] = replace(groups, layout=layout)
                mine = train(made[sizes], args.steps, job.device)
                report(job, writer, name_of(layout), mine)


def report(job: Job, writer: MetricsWriter, name: str, mine: Result) -> None:
    """Write a layout's measures; of errors and bytes the largest rank's."""
    ranks: list = [None] * job.world_size
    dist.all_gather_object(ranks, mine)
    sent = max(r.sent for r in ranks)
    error = max(r.error for r in ranks)
    measure = writer.measure
    measure("loss", mine.loss, "nats/token", layout=name)
    measure("grad_norm", mine.norm, "", layout=name)
    measure("loss_error", max(r.loss_error for r in ranks), "", layout=name)
    measure("norm_error", max(r.norm_error for r in ranks), "", layout=name)
    measure("gradient_error", error, "", layout=name)
    measure("bytes_sent", sent, "B", layout=name)
    if job.first:
        print(
            f"{name:40s} | loss {mine.loss:.9f} | grad_norm {mine.norm:.9f} "
            f"| gradients off by {error:.1e} | {sent:9,.0f} bytes sent",
            flush=True,
        )


if __name__ == "__main__":
    main()
