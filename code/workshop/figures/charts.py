"""Figures drawn from the records of runs, never from typed numbers."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from workshop.errors import UserError
from workshop.figures import style
from workshop.records.values import Record, values


def bandwidth_curve(*runs: Record, labels: list[str] | None = None) -> Figure:
    """Draw an all-reduce's time and bus bandwidth over the message size.

    Bars show the range over the repeats; a dashed line is each run's α-β
    model where it was fitted.
    """
    with style.drawing(2, width=9.0) as (figure, (left, right)):
        for index, run in enumerate(runs):
            look = {
                "color": style.SERIES[index % len(style.SERIES)],
                "marker": style.MARKERS[index % len(style.MARKERS)],
                "label": labels[index] if labels else Path(run.name).name,
            }
            for axis, name in (
                (left, "all_reduce_time"),
                (right, "all_reduce_busbw"),
            ):
                by_size = {
                    int(point["bytes"]): entry
                    for point, entry in values(run, name)
                }
                sizes = sorted(by_size)
                times, ranges = style.ranges(by_size[n] for n in sizes)
                axis.errorbar(sizes, times, ranges, capsize=2, **look)
            _model(left, run, look["color"])
        left.set_ylabel("time (µs)")
        right.set_ylabel("bus bandwidth (GB/s)")
        for axis in (left, right):
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            axis.set_xlabel("message")
            axis.set_xticks([2**k for k in (3, 10, 17, 24, 30)])
            axis.minorticks_off()
            axis.xaxis.set_major_formatter(FuncFormatter(_bytes))
            axis.yaxis.set_major_formatter(FuncFormatter(_plain))
        left.legend()
    return figure


def _model(axis: Axes, run: Record, colour: str) -> None:
    alpha = run.summary.get("all_reduce_alpha")
    beta = run.summary.get("all_reduce_beta")
    if alpha is None or beta is None:
        return
    sizes = sorted(
        int(labels["bytes"]) for labels, _ in values(run, "all_reduce_time")
    )
    # α is in µs and β in GB/s: 1 GB/s moves 1000 bytes in a µs
    times = [alpha["median"] + size / beta["median"] / 1e3 for size in sizes]
    axis.plot(sizes, times, "--", color=colour, linewidth=0.9)


def p2p_matrix(
    run: Record, node: int = 0, direction: str = "unidirectional"
) -> Figure:
    """Draw the GB/s of every copy of a node, direct beside staged."""
    copies = [
        (labels, entry["median"])
        for labels, entry in values(run, "p2p_bandwidth")
        if labels["node"] == str(node) and labels["direction"] == direction
    ]
    if not copies:
        raise UserError(
            f"the run {run.name} measured no {direction} copies on node "
            f"{node}: choose a node and a direction that it has"
        )
    size = 1 + max(int(labels["from"]) for labels, _ in copies)
    largest = max(value for _, value in copies)
    with style.drawing(2, width=7.2) as (figure, axes):
        for axis, path in zip(axes, ("direct", "staged"), strict=True):
            axis.set_title(f"{path}, GB/s")
            axis.set_xlabel("to GPU")
            axis.set_ylabel("from GPU")
            axis.set_xticks(range(size))
            axis.set_yticks(range(size))
            axis.set_xlim(-0.5, size - 0.5)
            axis.set_ylim(size - 0.5, -0.5)
            axis.set_aspect("equal")
            axis.grid(False)
            for labels, value in copies:
                if labels["path"] == path:
                    at = int(labels["to"]), int(labels["from"])
                    _cell(axis, at, value, value / largest)
    return figure


def _cell(
    axis: Axes, at: tuple[int, int], value: float, share: float
) -> None:
    # A square whose area grows with the value shows it on any background,
    # where a colour scale would vanish into a light page or a dark one.
    half = 0.48 * share**0.5
    axis.fill(
        [at[0] - half, at[0] + half, at[0] + half, at[0] - half],
        [at[1] - half, at[1] - half, at[1] + half, at[1] + half],
        facecolor="none",
        edgecolor=style.BLUE,
        linewidth=2,
    )
    text = f"{value:,.0f}" if value >= 100 else f"{value:,.3g}"
    axis.text(*at, text, ha="center", va="center")


def _plain(value: float, _: object = None) -> str:
    whole = value >= 1e-3 or value == 0
    return f"{value:,g}" if whole else f"{value:.0e}"


def _bytes(size: float, _: object = None) -> str:
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{size / scale:g} {unit}"
    return f"{size:g} B"
