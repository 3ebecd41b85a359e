"""Figures of the pages on papers: their formulas, their printed tables."""

from math import inf

from matplotlib.figure import Figure

from workshop.estimate.pipeline import bubble_over_ideal
from workshop.estimate.published import NARAYANAN_2021
from workshop.figures import style
from workshop.parallel.pipeline.schedule import make_schedule
from workshop.parallel.pipeline.simulator import simulate


def bubble_over_micro_batches(
    p: int = 8, groups: tuple[int, ...] = (1, 2, 4, 8)
) -> Figure:
    """Draw the bubble over the micro-batches: formula and simulation.

    Args:
        p: pipeline parallel size.
        groups: micro-batches of each simulated step, in multiples of p.

    Lines are (p-1)/(v m), points come from the simulator with backward
    passes of twice the time of forward ones.
    """
    counts = [p * group for group in groups]
    with style.drawing(width=6.8, height=3.6) as (figure, (axis,)):
        for index, v in enumerate((1, 2, 4)):
            name = "1f1b" if v == 1 else "interleaved"
            colour = style.SERIES[index]
            axis.plot(
                counts,
                [100 * bubble_over_ideal(p, m, v) for m in counts],
                color=colour,
                label=f"$(p-1)/(vm)$, v = {v}",
            )
            axis.plot(
                counts,
                [
                    100 * simulate(
                        make_schedule(name, p, m, v), 1, 2
                    ).bubble_over_ideal
                    for m in counts
                ],
                style.MARKERS[index],
                color=colour,
                markersize=7,
                label=f"{name}, simulated",
            )  # fmt: skip
        style.logarithmic(axis.xaxis, counts)
        style.logarithmic(axis.yaxis, [1, 2, 5, 10, 20, 50, 100])
        axis.set_xlabel(f"micro-batches m, {p} stages")
        axis.set_ylabel("bubble, % of the ideal time")
        axis.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def published_speeds() -> Figure:
    """Draw table 1 of Narayanan et al. 2021: speed over model size."""
    rows = NARAYANAN_2021
    sizes = [row.billions for row in rows]
    with style.drawing(width=6.8, height=3.4) as (figure, (axis,)):
        axis.plot(sizes, [row.tflops for row in rows], "o-", color=style.BLUE)
        before = inf
        for row in rows:
            # No label meets the line that comes from the left.
            rise = row.tflops - before
            axis.annotate(
                f"{row.tensor}×{row.pipeline}×{row.data}",
                (row.billions, row.tflops),
                (-5, 5) if rise > 0 else (0, 8) if rise == 0 else (0, -14),
                textcoords="offset points",
                ha="right" if rise > 0 else "center",
                fontsize=9,
            )
            before = row.tflops
        style.logarithmic(axis.xaxis, [1, 3, 10, 30, 100, 300, 1000])
        axis.set_ylim(130, 170)
        axis.set_xlim(1.1, 1500)
        axis.set_xlabel("parameters (10⁹); labels are t × p × d")
        axis.set_ylabel("TFLOP/s per A100, published")
    return figure
