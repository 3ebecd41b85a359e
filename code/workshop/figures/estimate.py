"""Figures of predictions: a step beside its measurement, and memory."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from workshop.estimate import memory
from workshop.figures import style
from workshop.figures.bars import rows, stack, write
from workshop.layout import Layout

GIB = 2**30
DEVICE = "NVIDIA H200"
"""Whose memory is the line; one of `estimate.memory.DEVICES`."""

STEP = {
    "compute": style.BLUE,
    "optimizer": style.GREEN,
    "bubble": style.PURPLE,
    "communication": style.ORANGE,
}
# Parts of a rank's memory: those of `estimate.memory.rank_bytes`.
MEMORY = {
    "weights": style.BLUE,
    "gradients": style.PURPLE,
    "optimizer": style.GREEN,
    "activations": style.ORANGE,
    "logits": style.RED,
    "workspace": style.TEXT,
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


def predicted_beside_measured(
    cases: Mapping[str, tuple[dict, dict | None]],
) -> Figure:
    """Draw the predicted parts of each step above the measured step.

    Args:
        cases: label -> the parts (`predict`) and the statistics of the
            recorded `step_time_s`, None where nobody recorded it.
    """
    unit = "step (ms): predicted above, measured beneath"
    with rows(list(cases), unit, width=7.2, height=0.62) as (figure, axis):
        above = np.arange(len(cases)) - 0.19
        predicted = [parts_ms(parts) for parts, _ in cases.values()]
        stack(axis, predicted, STEP, above, height=0.34)
        for y, (parts, entry) in enumerate(cases.values()):
            if entry is None:
                continue
            (middle,), reach = style.ranges([entry], 1e3)
            axis.barh(
                y + 0.19, middle, 0.34, facecolor="none", label="measured",
                edgecolor=style.TEXT, linewidth=1.4, xerr=reach,
                ecolor=style.TEXT, capsize=2,
            )  # fmt: skip
            off = f"{100 * (1e3 * parts['total'] / middle - 1):+.1f} %"
            write(axis, [off], middle + reach[1], [y + 0.19])
    return figure


def memory_by_part(model: dict, layouts: Mapping[str, Layout]) -> Figure:
    """Draw the memory of each layout's fullest rank, part by part.

    Args:
        model: sizes, `asdict` of a GPTConfig.
        layouts: label -> layout.
    """
    capacity = memory.DEVICES[DEVICE]
    unit = "GiB at the peak of a step, predicted"
    needs, texts = [], []
    for spread in layouts.values():
        _, parts = memory.largest_stage(model, spread)
        parts["activations"] = parts["layers"]
        needs.append({part: parts[part] / GIB for part in MEMORY})
        fits = memory.fits(model, spread, capacity)
        texts.append(
            f"{parts['total'] / GIB:.0f}{', does not fit' * (not fits)}"
        )
    with rows(list(layouts), unit, width=7.2, height=0.42) as (figure, axis):
        axis.margins(x=0.2)
        write(axis, texts, stack(axis, needs, MEMORY))
        axis.axvline(
            capacity / GIB, color=style.TEXT, linestyle="--", label=DEVICE
        )
    return figure
