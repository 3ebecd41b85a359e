"""How every figure looks: legible on a white and on a near-black page.

A page may be light or dark and a figure does not know which, so its
background is transparent and every colour keeps a contrast of at least
3 to 1, the bound of WCAG 2.2 for graphics (success criterion 1.4.11), with
both `WHITE` and `NEAR_BLACK`; words reach 4 to 1 on both, close to the most
that one colour can.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

WHITE = "#ffffff"
NEAR_BLACK = "#121212"

TEXT = "#77777c"
BLUE = "#3b82d6"
ORANGE = "#d2691e"
GREEN = "#2e9364"
PURPLE = "#a05fc0"
RED = "#dc4a4a"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, RED)
MARKERS = ("o", "s", "^", "D", "v")
COMPUTE, COMMUNICATION, OTHER = BLUE, ORANGE, TEXT

_RC = {
    "svg.fonttype": "none",
    "svg.hashsalt": "model-parallelism-workshop",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": TEXT,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": TEXT,
    "grid.alpha": 0.25,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "savefig.transparent": True,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
}


@contextmanager
def drawing(
    columns: int = 1, width: float = 6.4, height: float = 3.6
) -> Iterator[tuple[Figure, list[Axes]]]:
    """Give a figure of `columns` axes side by side, in this style."""
    with mpl.rc_context(_RC):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(1, columns, squeeze=False)[0]
        yield figure, list(axes)


def ranges(
    entries: Iterable[dict], scale: float = 1.0
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the medians of measures, and how far their repeats reach.

    The second, first below and then above the medians, is what
    matplotlib's `errorbar` takes.
    """
    rows = [(e["min"], e["median"], e["max"]) for e in entries]
    low, middle, high = scale * np.array(rows).T
    return middle, [middle - low, high - middle]


def logarithmic(axis: Axis, ticks: list[float] | None = None) -> None:
    """Make an x or y axis logarithmic, with plain numbers (at `ticks`)."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    if ticks is not None:
        axis.set_ticks(ticks)
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_formatter(NullFormatter())
    axis.set_tick_params(which="minor", length=0)


def svg(figure: Figure) -> str:
    """Return the figure as SVG: its words stay text, its bytes repeat."""
    from io import StringIO

    target = StringIO()
    with mpl.rc_context(_RC):
        figure.savefig(target, format="svg", metadata={"Date": None})
    return target.getvalue()
