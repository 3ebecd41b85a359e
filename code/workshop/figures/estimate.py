"""Figures of predictions: beside measurements, over networks, in memory.

Where a run of `workshop.lab1.one_rank` is given, the compute of every rank
is measured and only what the ranks say to each other is predicted.
"""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from workshop.estimate import communication, memory
from workshop.figures import style
from workshop.layout import Layout
from workshop.records.predict.ranks import predict
from workshop.records.values import Record

NETWORKS = (25, 100, 400)
"""Speeds of network cards in Gb/s."""
GIB = 2**30

# Parts of a step: those of `estimate.time.step_time` that each one sums.
STEP = {
    "compute": (("compute", "contention"), style.BLUE),
    "update": (("optimizer",), style.GREEN),
    "bubble": (("bubble", "imbalance"), style.PURPLE),
    "communication": (("tp", "pp", "dp"), style.ORANGE),
}
# Parts of a rank's memory: those of `estimate.memory.rank_bytes`.
MEMORY = {
    "weights": (("weights",), style.BLUE),
    "gradients": (("gradients",), style.PURPLE),
    "optimizer": (("optimizer",), style.GREEN),
    "activations": (("layers",), style.ORANGE),
    "logits": (("logits",), style.RED),
    "workspace": (("workspace",), style.TEXT),
}


def predicted_beside_measured(
    cases: Mapping[str, tuple[dict, dict | None]],
) -> Figure:
    """Draw the predicted parts of each step above the measured step.

    Args:
        cases: label -> the parts (`predict`) and the statistics of the
            recorded `step_time_s`, None where nobody recorded it.
    """
    height = 1.1 + 0.62 * len(cases)
    with style.drawing(width=7.2, height=height) as (figure, (axis,)):
        for y, (parts, entry) in enumerate(cases.values()):
            _stack(axis, y - 0.19, parts, STEP, 1e3, 0.34)
            if entry is None:
                continue
            middle = 1e3 * entry["median"]
            spread = [
                [middle - 1e3 * entry["min"]],
                [1e3 * entry["max"] - middle],
            ]
            axis.barh(
                y + 0.19, middle, 0.34, facecolor="none",
                edgecolor=style.TEXT, linewidth=1.4, xerr=spread,
                ecolor=style.TEXT, capsize=2,
            )  # fmt: skip
            off = 100 * (parts["total"] / entry["median"] - 1)
            axis.annotate(
                f"{off:+.1f} %", (1e3 * entry["max"], y + 0.19), (6, 0),
                textcoords="offset points", va="center",
            )  # fmt: skip
        for part, (_, colour) in STEP.items():
            axis.barh(0, 0, color=colour, label=f"{part}, predicted")
        axis.barh(
            0, 0, facecolor="none", edgecolor=style.TEXT, label="measured"
        )
        axis.set_yticks(range(len(cases)), list(cases))
        axis.invert_yaxis()
        axis.grid(False, axis="y")
        axis.margins(x=0.12)
        axis.set_xlabel("step (ms)")
        figure.legend(loc="outside upper center", ncols=3)
    return figure


def step_over_network(
    run: Record, names: Mapping[str, tuple[str, int, int]]
) -> Figure:
    """Draw the time of a sequence over the speed of the network.

    Args:
        run: of `workshop.lab1.one_rank`.
        names: label -> layout, micro-batch, micro-batches a step.

    All axes of a layout use the network; NVLink carries none of them.
    """
    speeds = np.geomspace(10, 4000, 80)
    with style.drawing(width=7.2, height=3.8) as (figure, (axis,)):
        for i, (label, (name, size, count)) in enumerate(names.items()):
            sequences = Layout.from_name(name).dp * size * count
            points = []
            for gbit in speeds:
                link = communication.network(float(gbit))
                links = dict.fromkeys(("dp", "tp", "pp"), link)
                parts = predict(run, name, size, links, count)
                points.append(1e3 * parts["total"] / sequences)
            axis.plot(
                speeds, points, label=label,
                color=style.SERIES[i % len(style.SERIES)],
            )  # fmt: skip
        for gbit in NETWORKS:
            axis.axvline(gbit, color=style.TEXT, alpha=0.4, linewidth=1)
            axis.annotate(
                f"{gbit} Gb/s", (gbit, 1), (3, -4), rotation=90, va="top",
                xycoords=("data", "axes fraction"),
                textcoords="offset points", fontsize=9,
            )  # fmt: skip
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.minorticks_off()
        for one in (axis.xaxis, axis.yaxis):
            one.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axis.set_xlabel("network (Gb/s)")
        axis.set_ylabel("ms a sequence, predicted")
        axis.legend()
    return figure


def memory_by_part(
    model: dict, layouts: Mapping[str, Layout], device: str = "NVIDIA H200"
) -> Figure:
    """Draw the memory of each layout's fullest rank, part by part.

    Args:
        model: sizes, `asdict` of a GPTConfig.
        layouts: label -> layout.
        device: one of `estimate.memory.DEVICES`, whose memory is the line.
    """
    capacity = memory.DEVICES[device] / GIB
    height = 1.3 + 0.42 * len(layouts)
    with style.drawing(width=7.2, height=height) as (figure, (axis,)):
        for y, spread in enumerate(layouts.values()):
            _, parts = memory.largest_stage(model, spread)
            total = _stack(axis, y, parts, MEMORY, 1 / GIB, 0.6)
            fits = memory.fits(model, spread, memory.DEVICES[device])
            axis.annotate(
                f"{total:.0f}" + ("" if fits else ", does not fit"),
                (total, y), (6, 0), textcoords="offset points", va="center",
            )  # fmt: skip
        for part, (_, colour) in MEMORY.items():
            axis.barh(0, 0, color=colour, label=part)
        axis.axvline(capacity, color=style.TEXT, linestyle="--", label=device)
        axis.set_yticks(range(len(layouts)), list(layouts))
        axis.invert_yaxis()
        axis.grid(False, axis="y")
        axis.margins(x=0.2)
        axis.set_xlabel("GiB at the peak of a step, predicted")
        figure.legend(loc="outside upper center", ncols=4)
    return figure


def _stack(axis, y, parts, shown, scale, height) -> float:
    """Draw the parts of a bar one after another; return its length."""
    left = 0.0
    for keys, colour in shown.values():
        width = scale * sum(parts[key] for key in keys)
        axis.barh(y, width, height, left=left, color=colour, linewidth=0)
        left += width
    return left
