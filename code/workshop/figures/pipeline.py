"""Schedules of pipelines, drawn from their operations.

A box is an operation with the number of its micro-batch, a row is a rank,
and a gap is the bubble.
"""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from workshop.figures import style
from workshop.parallel.pipeline.schedule import (
    BACKWARD,
    FORWARD,
    Schedule,
    chunks_of,
)
from workshop.parallel.pipeline.simulator import simulate
from workshop.parallel.pipeline.timeline import Timeline

COLOURS = {FORWARD: style.BLUE, BACKWARD: style.GREEN}
NAMES = {FORWARD: "forward", BACKWARD: "backward"}
WIDTH, HEIGHT, LANE, GAP = 9.0, 0.8, 0.32, 0.9


def schedule_diagram(
    named: Mapping[str, Schedule],
) -> Figure:
    """Draw schedules below each other on one time axis, as simulated.

    A backward pass takes twice the time of a forward pass, and a chunk of
    an interleaved schedule 1/v of that of a plain pipeline's stage.

    Args:
        named: schedules by the names to write beside them.
    """
    timelines = {}
    for name, schedule in named.items():
        v = chunks_of(schedule)
        timelines[name] = simulate(schedule, 1 / v, 2 / v)
    return draw(timelines, "time (one forward pass of a stage = 1)")


def draw(timelines: Mapping[str, Timeline], unit: str) -> Figure:
    """Draw timelines below each other: a row a rank, a box an operation.

    Boxes of chunk 0, 2... are filled, those of chunk 1, 3... are outlines.
    The bubble of each is written at its right end.
    """
    lanes = sum(len(timeline.ranks) for timeline in timelines.values())
    gaps = GAP * (len(timelines) - 1)
    total = max(t.start + t.makespan for t in timelines.values())
    height = 1.2 + LANE * (lanes + gaps)
    ticks, labels, y = [], [], 0.0
    with style.drawing(width=WIDTH, height=height) as (figure, (axis,)):
        axis.grid(axis="y", visible=False)
        for name, timeline in timelines.items():
            _title(axis, y, total, name, timeline)
            for rank, operations in enumerate(timeline.ranks):
                for timed in operations:
                    _box(axis, y, total, *timed)
                ticks.append(y)
                labels.append(f"rank {rank}")
                y += 1
            y += GAP
        axis.set_yticks(ticks, labels)
        axis.set_xlim(0, total)
        axis.set_ylim(y - GAP - 0.4, -GAP)
        axis.set_xlabel(unit)
        axis.legend(
            handles=_legend(timelines),
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            ncols=4,
        )
    return figure


def _box(axis: Axes, y: float, total: float, operation, start, end) -> None:
    """Draw an operation, numbered where the number has room."""
    colour = COLOURS[operation.kind]
    filled = operation.chunk % 2 == 0
    axis.add_patch(
        Rectangle(
            (start, y - HEIGHT / 2),
            end - start,
            HEIGHT,
            facecolor=colour if filled else "none",
            edgecolor=style.NEAR_BLACK if filled else colour,
            linewidth=0.6,
        )
    )
    room = WIDTH * (end - start) / total
    if room > 0.075 * len(str(operation.microbatch)) + 0.03:
        axis.text(
            (start + end) / 2,
            y,
            str(operation.microbatch),
            color=style.NEAR_BLACK if filled else colour,
            ha="center",
            va="center_baseline",
            fontsize=8,
        )


def _title(
    axis: Axes, y: float, total: float, name: str, timeline: Timeline
) -> None:
    """Write a timeline's name above it, and its share of bubble."""
    above = y - HEIGHT / 2 - 0.08
    axis.text(0, above, name, ha="left", va="bottom", fontsize=9)
    share = timeline.shares()
    text = f"bubble {share.bubble:.1%}"
    if share.imbalance > 5e-4:
        text += f", imbalance {share.imbalance:.1%}"
    axis.text(total, above, text, ha="right", va="bottom", fontsize=9)


def _legend(timelines: Mapping[str, Timeline]) -> list[Patch]:
    """Return an entry for each kind of box that is drawn."""
    chunked = any(
        timed.operation.chunk
        for timeline in timelines.values()
        for timed in timeline.ranks[0]
    )
    entries = [
        Patch(facecolor=COLOURS[kind], edgecolor=COLOURS[kind],
              label=NAMES[kind] + (", first chunk" if chunked else ""))
        for kind in COLOURS
    ]  # fmt: skip
    if chunked:
        entries += [
            Patch(facecolor="none", edgecolor=COLOURS[kind],
                  label=f"{NAMES[kind]}, second chunk")
            for kind in COLOURS
        ]  # fmt: skip
    return entries
