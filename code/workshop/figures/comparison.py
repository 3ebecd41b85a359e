"""Figures of chapter 02 that compare ways of data parallelism.

All are drawn from the record of `lab1/compare-data-parallel`.
"""

import numpy as np
from matplotlib.figure import Figure

from workshop.figures import style
from workshop.figures.bars import rows, spans, write
from workshop.figures.profile import IN_STEP, KINDS
from workshop.figures.recorded import Rank, ranks_of
from workshop.profiling import by_place
from workshop.profiling.groups import MATRIX
from workshop.records.values import Record, values

LABELS = {
    "single": "one GPU, the other idle",
    "alone": "both, no communication",
    "naive": "ours, naive",
    "overlapped": "ours, copy engines",
    "overlapped-collective": "ours, NCCL",
    "ddp": "torch's DDP",
    "nanogpt-alone": "nanoGPT, no communication",
    "nanogpt-ddp": "nanoGPT, DDP",
}
TRACED = ("alone", "overlapped", "overlapped-collective", "ddp")
LANES = {"compute": -0.19, "communication": 0.19}
SILENT, *TALKING = TRACED
WAYS = dict(
    zip(
        TALKING,
        ((style.GREEN, "o"), (style.BLUE, "s"), (style.ORANGE, "^")),
        strict=True,
    )
)


def contestants(run: Record) -> Figure:
    """Draw the TFLOP/s per GPU of each way to train, with its range."""
    speeds = {
        labels["contestant"]: entry
        for labels, entry in values(run, "tflops_per_gpu")
    }
    names = [name for name in LABELS if name in speeds]
    middle, reach = style.ranges(speeds[name] for name in names)
    silent = ["alone" in name or name == "single" for name in names]
    colours = [style.COMPUTE if s else style.COMMUNICATION for s in silent]
    with rows(
        [LABELS[name] for name in names], "TFLOP/s per GPU", 7.5, 0.38
    ) as (figure, axis):
        axis.barh(
            range(len(names)), middle, 0.62, color=colours,
            xerr=reach, ecolor=style.TEXT,
        )  # fmt: skip
        write(axis, (f"{each:.0f}" for each in middle), middle + reach[1])
    return figure


def contestant_steps(run: Record) -> Figure:
    """Draw one profiled step of each traced way to train, one below the
    other: compute above, communication beneath it.

    Raises:
        UserError: the run has no profile of one of them.
    """
    names = [LABELS[name] for name in TRACED]
    with rows(names, IN_STEP, width=9.0, height=0.8) as (figure, axis):
        for place, name in enumerate(TRACED):
            for row in _profile(run, name).timeline:
                if row.kind in LANES:
                    y, colour = place + LANES[row.kind], KINDS[row.kind]
                    spans(axis, y, row.spans, colour, row.kind, height=0.36)
    return figure


def _profile(run: Record, name: str) -> Rank:
    return ranks_of(run, f"artifacts/{name}/profile.json")[0]


def slowed_products(run: Record) -> Figure:
    """Draw how much longer each matrix product takes in each way to train.

    Every point is one product, at the same place of the step as in the step
    without communication; the dotted line is where a product would lie that
    loses half its speed for as long as a kernel of a message runs.
    """
    silent = by_place.activities_of(run.folder, SILENT)
    with style.drawing(width=6.8, height=3.4) as (figure, (axis,)):
        for way, (colour, marker) in WAYS.items():
            talking = by_place.activities_of(run.folder, way)
            products = [
                (100 * pair.met, pair.ratio)
                for pair in by_place.pairs(silent, talking)
                if pair.group == MATRIX
            ]
            axis.plot(
                *zip(*products, strict=True), marker, color=colour,
                markersize=4, alpha=0.6, label=LABELS[way],
            )  # fmt: skip
        met = np.linspace(0, 1)
        axis.plot(
            100 * met, 1 / (1 - met / 2), ":", color=style.TEXT,
            label="half speed while a message runs",
        )  # fmt: skip
        axis.set_xlabel(
            "part of the product's time beside kernels of messages (%)"
        )
        axis.set_ylabel("times as long as without")
        axis.legend()
    return figure


PARTS = (
    ("pulling from the peer", "Memcpy PtoP"),
    ("packing into buckets", "Memcpy DtoD"),
    ("waiting for the peer", "barrier"),
)


def communication_parts(run: Record) -> Figure:
    """Draw what the copy engines' stream does in the traced step."""
    times = dict.fromkeys((*(label for label, _ in PARTS), "averaging"), 0.0)
    for a in by_place.activities_of(run.folder, "overlapped"):
        if a.kind != "communication":
            continue
        part = next((p for p, mark in PARTS if mark in a.name), "averaging")
        times[part] += (a.end - a.begin) / 1e3
    with rows(list(times), IN_STEP, width=7.0, height=0.3) as (figure, axis):
        axis.barh(
            range(len(times)), times.values(), 0.62,
            color=style.COMMUNICATION,
        )  # fmt: skip
        ends = list(times.values())
        write(axis, (f"{end:.1f}" for end in ends), ends)
    return figure
