"""Bars of what a profiled step is made of: one for every rank."""

from collections.abc import Callable

from matplotlib.figure import Figure

from workshop.figures import style

PARTS = {
    "compute": style.COMPUTE,
    "exposed communication": style.COMMUNICATION,
    "copies and the rest": style.GREEN,
    "idle": style.OTHER,
}
GROUP_COLOURS = {
    "matrix products": style.BLUE,
    "attention": style.GREEN,
    "LayerNorm": style.PURPLE,
    "elementwise": style.OTHER,
    "optimizer": style.RED,
    "communication": style.COMMUNICATION,
    "copies": style.OTHER,
    "ungrouped": style.TEXT,
}
HATCHES = {"copies": "///", "ungrouped": "xxx"}
NOTHING_MS = 1e-6


def parts(rank: dict) -> dict[str, float]:
    """Return the ms of `PARTS` of a rank's step, which add up to it."""
    compute, exposed = rank["compute_ms"], rank["exposed_communication_ms"]
    idle = rank["idle_ms"]
    rest = max(0.0, rank["step_ms"] - compute - exposed - idle)
    return dict(zip(PARTS, (compute, exposed, rest, idle), strict=True))


def groups(rank: dict) -> dict[str, float]:
    """Return the ms of each group of kernels in a rank's step."""
    return rank["groups"]


def bars(
    rows: list[tuple[str, dict]],
    split: Callable[[dict], dict[str, float]],
    colours: dict[str, str],
) -> Figure:
    """Draw a bar for each rank's profile, its parts end to end.

    Args:
        rows: the name and the profile of each bar, from above.
        split: gives the ms of every part of `colours`.
    """
    splits = [(name, split(rank)) for name, rank in rows]
    height = 1.4 + 0.5 * len(splits)
    with style.drawing(width=8.0, height=height) as (figure, (axis,)):
        left = [0.0] * len(splits)
        for part, colour in colours.items():
            widths = [times.get(part, 0.0) for _, times in splits]
            if max(widths) < NOTHING_MS:
                continue
            hatch = HATCHES.get(part)
            axis.barh(
                range(len(splits)),
                widths,
                left=left,
                height=0.62,
                label=part,
                facecolor="none" if hatch else colour,
                edgecolor=colour,
                hatch=hatch,
                linewidth=0.8,
            )
            left = [a + b for a, b in zip(left, widths, strict=True)]
        for row, total in enumerate(left):
            axis.annotate(
                f"{total:.0f}" if total >= 10 else f"{total:.2g}",
                (total, row),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
            )
        axis.set_yticks(range(len(splits)), [name for name, _ in splits])
        axis.invert_yaxis()
        axis.grid(False, axis="y")
        axis.set_axisbelow(True)
        axis.margins(x=0.09)
        axis.set_xlabel("time in the step (ms)")
        axis.legend(loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=4)
    return figure
