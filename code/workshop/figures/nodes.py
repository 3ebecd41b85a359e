"""Figures of chapter 03: predicted layouts.

The predictions start from records: the step of one GPU, and the all-reduce
of a link. Whatever a label calls predicted was not measured.
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from workshop.estimate import communication
from workshop.figures import style
from workshop.figures.bars import rows, stack, write
from workshop.layout import Layout
from workshop.records.predict.layouts import (
    SEQUENCES,
    curve,
    four_gpus,
    predict,
    step_of_one_gpu,
    two_ranks,
)
from workshop.records.values import Record

NETWORKS = (25, 100, 400)
"""Speeds of network cards in Gb/s."""


STEP = {
    "compute": style.BLUE,
    "optimizer": style.GREEN,
    "bubble": style.PURPLE,
    "communication": style.ORANGE,
}


def parts_ms(predicted: Mapping[str, float]) -> dict[str, float]:
    """Return the ms of `STEP` that `estimate.time.step_time` predicts."""
    sums = {
        "compute": ("compute", "contention"),
        "optimizer": ("optimizer",),
        "bubble": ("bubble", "imbalance"),
        "communication": ("tp", "pp", "dp"),
    }
    return {
        part: 1e3 * sum(predicted[key] for key in keys)
        for part, keys in sums.items()
    }


def over_bandwidth(alone: Record, inside: Record, between: Record) -> Figure:
    """Draw predicted tokens a second of two GPUs over their bandwidth.

    Args:
        alone: a record with a `step_of_one_gpu`.
        inside, between: the all-reduce records of two links.
    """
    bandwidth = np.geomspace(1, 1000, 120)
    with style.drawing(width=7.2, height=4.0) as (figure, (axis,)):
        for i, (name, spread_over) in enumerate(two_ranks().items()):
            rates = []
            for gb_s in bandwidth:
                way = communication.link(30.0, gb_s)
                links = dict.fromkeys(("dp", "tp", "pp"), way)
                parts = predict(alone, inside, spread_over, links)
                rates.append(parts["tokens_per_s"] / 1e3)
            axis.plot(bandwidth, rates, color=style.SERIES[i], label=name)
        single = Layout(micro_batch=16, num_microbatches=SEQUENCES // 16)
        one = predict(alone, inside, single, {})["tokens_per_s"] / 1e3
        axis.axhline(one, color=style.TEXT, linestyle=":", linewidth=1.2)
        axis.annotate("one GPU", (1, one), (2, 4), color=style.TEXT,
                      textcoords="offset points")  # fmt: skip
        marks = [
            (run.summary["all_reduce_beta"]["median"], name)
            for run, name in ((between, "sockets"), (inside, "NVLink"))
        ]
        marks += [(gbit / 8, f"{gbit} Gb/s") for gbit in NETWORKS]
        for gb_s, name in marks:
            axis.axvline(gb_s, color=style.TEXT, alpha=0.4, linewidth=1)
            axis.annotate(
                name, (gb_s, 0), (3, 5), rotation=90, va="bottom",
                textcoords="offset points", color=style.TEXT, fontsize=9,
            )  # fmt: skip
        style.logarithmic(axis.xaxis)
        axis.set_ylim(0, None)
        axis.set_xlabel("bandwidth (GB/s)")
        axis.set_ylabel("k tokens/s, predicted")
        axis.legend(loc="lower right")
    return figure


def accumulation(alone: Record, inside: Record, between: Record) -> Figure:
    """Draw predicted efficiency of two nodes over micro-batches a step.

    The arguments are those of `over_bandwidth`. Efficiency is the speed a
    GPU over that of one GPU with as many micro-batches a step.
    """
    counts = [1, 2, 4, 8, 16, 32]
    ways = {"sockets": curve(between)}
    ways |= {f"{g} Gb/s": communication.network(g) for g in NETWORKS}
    with style.drawing(width=7.2, height=3.6) as (figure, (axis,)):
        for i, (name, way) in enumerate(ways.items()):
            shares = []
            for m in counts:
                both, single = (
                    Layout(dp=n, micro_batch=16, num_microbatches=m)
                    for n in (2, 1)
                )
                speed = predict(alone, inside, both, {"dp": way})
                best = predict(alone, inside, single, {})
                shares.append(
                    50 * speed["tokens_per_s"] / best["tokens_per_s"]
                )
            axis.plot(
                counts, shares, color=style.SERIES[i],
                marker=style.MARKERS[i], label=name,
            )  # fmt: skip
        axis.axhline(50, color=style.TEXT, linestyle=":", linewidth=1.2)
        axis.annotate("as slow as one GPU", (counts[-1], 50), (0, 4),
                      ha="right", textcoords="offset points")  # fmt: skip
        style.logarithmic(axis.xaxis, counts)
        axis.set_ylim(0, 104)
        axis.set_xlabel("micro-batches a step, of 16 sequences")
        axis.set_ylabel("efficiency (%), predicted")
        axis.legend(loc="lower right")
    return figure


def placements(alone: Record, inside: Record, between: Record) -> Figure:
    """Draw the predicted step of each layout of two nodes of two GPUs.

    The arguments are those of `over_bandwidth`. A bar that is much longer
    than the others is cut.
    """
    cases = four_gpus(curve(inside), curve(between))
    layouts = {
        name: parts_ms(predict(alone, inside, *case))
        for name, case in cases.items()
    }
    order = sorted(layouts, key=lambda name: sum(layouts[name].values()))
    limit = 1.25 * sum(layouts[order[-2]].values())
    ideal = 1e3 * step_of_one_gpu(alone) * SEQUENCES / 64
    unit = "step (ms), predicted; dotted: a fourth of one GPU's"
    with rows(order, unit, height=0.37) as (figure, axis):
        axis.set_xlim(0, limit)
        ends = stack(axis, [layouts[name] for name in order], STEP)
        write(
            axis,
            (f"{end:,.0f}{' →' * (end > limit)}" for end in ends),
            (min(end, limit) for end in ends),
        )
        axis.axvline(ideal, color=style.TEXT, linestyle=":", linewidth=1.2)
    return figure
