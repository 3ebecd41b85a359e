"""Horizontal bars and time lines: rows from above, parts end to end."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workshop.figures import style

HATCHES = {"copies": "///", "ungrouped": "xxx"}
"""Parts that are told apart by lines, where colours run out."""
NOTHING = 1e-6
"""A part that is longer in no row is left out, of the legend too."""


@contextmanager
def rows(
    names: Sequence[str],
    unit: str,
    width: float = 8.0,
    height: float = 0.5,
    at: Sequence[float] | None = None,
) -> Iterator[tuple[Figure, Axes]]:
    """Give a figure with a row for each name, from above.

    What is drawn with a label stands in the legend, alike ones once.

    Args:
        names: what stands beside the rows.
        unit: what the x axis shows.
        width, height: of the figure and of a row in inches.
        at: the y of each name, 0, 1, 2... where it is not given.
    """
    tall = 1.3 + height * len(names)
    with style.drawing(width=width, height=tall) as (figure, (axis,)):
        axis.set_yticks(range(len(names)) if at is None else at, names)
        axis.invert_yaxis()
        axis.grid(False, axis="y")
        axis.set_axisbelow(True)
        axis.margins(x=0.12)
        axis.set_xlabel(unit)
        yield figure, axis
        drawn, labels = axis.get_legend_handles_labels()
        entries = dict(zip(labels, drawn, strict=True))
        if entries:
            axis.legend(
                entries.values(), entries.keys(), loc="lower center",
                bbox_to_anchor=(0.45, 1.0), ncols=min(4, len(entries)),
            )  # fmt: skip


def stack(
    axis: Axes,
    lengths: Sequence[Mapping[str, float]],
    colours: Mapping[str, str],
    at: Sequence[float] | None = None,
    height: float = 0.62,
) -> list[float]:
    """Draw a bar a row, its parts end to end; return where the bars end.

    Args:
        lengths: for each row the length of its parts.
        colours: of the parts, in their order.
        at: the y of each bar, 0, 1, 2... where it is not given.
        height: of a bar; rows are 1 apart.
    """
    at = range(len(lengths)) if at is None else at
    ends = np.zeros(len(lengths))
    for part, colour in colours.items():
        each = np.array([row.get(part, 0.0) for row in lengths])
        if each.max(initial=0.0) < NOTHING:
            continue
        hatch = HATCHES.get(part)
        axis.barh(
            at, each, height, left=ends, label=part, edgecolor=colour,
            facecolor="none" if hatch else colour, hatch=hatch,
            linewidth=0.8 if hatch else 0,
        )  # fmt: skip
        ends += each
    return ends.tolist()


def spans(
    axis: Axes,
    y: float,
    times: Iterable[Sequence[float]],
    colour: str,
    label: str,
    height: float = 0.84,
) -> None:
    """Draw the (begin, length) of a lane around `y`."""
    lane = axis.broken_barh(
        [tuple(time) for time in times], (y - height / 2, height),
        facecolor=colour, linewidth=0, label=label,
    )  # fmt: skip
    lane.sticky_edges.x.append(0)


def write(
    axis: Axes,
    texts: Iterable[str],
    ends: Iterable[float],
    at: Iterable[float] | None = None,
) -> None:
    """Write a text beyond the end of each bar."""
    ends = list(ends)
    at = range(len(ends)) if at is None else at
    for text, end, y in zip(texts, ends, at, strict=True):
        axis.annotate(
            text, (end, y), (5, 0), textcoords="offset points", va="center"
        )
