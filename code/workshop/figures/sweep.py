"""Figures of a recorded `workshop.lab1.sweep_pipeline`."""

from matplotlib.figure import Figure

from workshop.estimate.pipeline import bubble_over_total
from workshop.figures import style
from workshop.figures.pipeline import recorded_beside_simulated
from workshop.records.values import Record, values

TRACE = "artifacts/1f1b-m4.json"


def trace(run: Record) -> Figure:
    """Draw the recorded step of 1F1B with 4 micro-batches, and simulated."""
    return recorded_beside_simulated(run, TRACE)


def bubbles(run: Record) -> Figure:
    """Draw the measured bubble of 1F1B over m beside the formula's.

    Bars show the range over repeats and rounds.
    """
    by_m: dict[int, dict] = {
        int(labels["m"]): entry
        for labels, entry in values(run, "bubble")
        if labels["schedule"] == "1f1b"
    }
    counts = sorted(by_m)
    ranks = run.metrics(0)[0]["world_size"]
    formula = [100 * bubble_over_total(ranks, m) for m in counts]
    middle, reach = style.ranges((by_m[m] for m in counts), 100)
    with style.drawing(width=6.4, height=3.2) as (figure, (axis,)):
        axis.plot(
            counts, formula, color=style.TEXT, linestyle="--",
            label="(p − 1) / (m + p − 1)",
        )  # fmt: skip
        axis.errorbar(
            counts, middle, reach, fmt="o", color=style.BLUE,
            capsize=3, label="1F1B, read from the trace",
        )  # fmt: skip
        style.logarithmic(axis.xaxis, counts)
        axis.set_ylim(0, None)
        axis.set_xlabel("micro-batches m")
        axis.set_ylabel("bubble (% of the step)")
        axis.legend()
    return figure
