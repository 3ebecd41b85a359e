"""Figures of a recorded `workshop.lab1.sweep_pipeline`."""

from matplotlib.figure import Figure

from workshop.estimate.pipeline import bubble_over_total
from workshop.figures import style
from workshop.records.values import Record, values

CHUNKS = 2
NAMES = {"1f1b": "1F1B", "eager-1f1b": "eager 1F1B", "gpipe": "GPipe"}


def bubbles(run: Record) -> Figure:
    """Draw the measured bubble of each schedule over m beside the formula's.

    Bars show the range over repeats and rounds; a plain pipeline's formula
    is dashed, that of two chunks a rank dotted.
    """
    measured: dict[str, dict[int, dict]] = {}
    for labels, entry in values(run, "bubble"):
        of_one = measured.setdefault(labels["schedule"], {})
        of_one[int(labels["m"])] = entry
    counts = sorted({m for by_m in measured.values() for m in by_m})
    ranks = run.metrics(0)[0]["world_size"]
    with style.drawing(width=6.4, height=3.4) as (figure, (axis,)):
        for v, dashes, label in (
            (1, "--", "(p − 1) / (m + p − 1)"),
            (CHUNKS, ":", "the same, v = 2"),
        ):
            formula = [100 * bubble_over_total(ranks, m, v) for m in counts]
            axis.plot(counts, formula, color=style.TEXT, linestyle=dashes,
                      label=label)  # fmt: skip
        for i, (schedule, by_m) in enumerate(measured.items()):
            at = sorted(by_m)
            middle, reach = style.ranges((by_m[m] for m in at), 100)
            axis.errorbar(
                [m * (1 + 0.06 * i) for m in at], middle, reach,
                fmt=style.MARKERS[i], color=style.SERIES[i], capsize=3,
                label=NAMES.get(schedule, schedule),
            )  # fmt: skip
        style.logarithmic(axis.xaxis, counts)
        axis.set_ylim(0, None)
        axis.set_xlabel("micro-batches m")
        axis.set_ylabel("bubble (% of the step)")
        axis.legend()
    return figure
