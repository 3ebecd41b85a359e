"""Figures drawn from the records of runs, never from typed numbers."""

import json
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

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
            look = _series(index, _label(index, run, labels))
            for axis, name in (
                (left, "all_reduce_time"),
                (right, "all_reduce_busbw"),
            ):
                points = sorted(
                    (int(point["bytes"]), entry)
                    for point, entry in values(run, name)
                )
                _with_range(axis, points, look)
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


def step_timeline(run: Record, artifact: str = "profile.json") -> Figure:
    """Draw what each GPU stream does during one recorded step.

    Raises:
        UserError: the run has no such profile.
    """
    try:
        text = (Path(run.folder) / artifact).read_text(encoding="utf-8")
        rows = json.loads(text)["timeline"]
    except (OSError, ValueError, KeyError):
        raise UserError(
            f"the run {run.name} has no profile {artifact}: record it again "
            "with profiling"
        ) from None
    colours = {
        "compute": style.COMPUTE,
        "communication": style.COMMUNICATION,
        "other": style.OTHER,
    }
    streams = sorted({(row["device"], row["stream"]) for row in rows})
    height = 1.3 + 0.45 * len(streams)
    with style.drawing(width=9.0, height=height) as (figure, (axis,)):
        for row in rows:
            y = streams.index((row["device"], row["stream"]))
            axis.broken_barh(
                [tuple(span) for span in row["spans"]],
                (y - 0.35, 0.7),
                color=colours[row["kind"]],
                linewidth=0,
            )
        kinds = {row["kind"] for row in rows}
        for kind in (kind for kind in colours if kind in kinds):
            axis.plot([], [], color=colours[kind], lw=6, label=kind)
        axis.set_yticks(
            range(len(streams)), [f"stream {s}" for _, s in streams]
        )
        axis.invert_yaxis()
        axis.set_xlabel("time in the step (ms)")
        axis.legend(
            loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(kinds)
        )
    return figure


def scaling(
    *runs: Record, gpus: list[int], field: str = "tokens_per_s"
) -> Figure:
    """Draw `field` over the number of GPUs beside linear scaling.

    Args:
        gpus: the number of GPUs of each run.  The run with the fewest is
            where the line of linear scaling starts.
    """
    points = sorted(
        (count, run.summary[field])
        for count, run in zip(gpus, runs, strict=True)
    )
    first, base = points[0]
    linear = [(n, base["median"] * n / first) for n, _ in points]
    with style.drawing(width=5.0) as (figure, (axis,)):
        xs, ys = zip(*linear, strict=True)
        axis.plot(xs, ys, "--", color=style.TEXT, label="linear")
        _with_range(axis, points, _series(0, "measured"))
        for (n, entry), (_, ideal) in zip(points, linear, strict=True):
            axis.annotate(
                f"{100 * entry['median'] / ideal:.1f} %",
                (n, entry["median"]),
                textcoords="offset points",
                xytext=(6, -12),
            )
        axis.set_xticks([n for n, _ in points])
        axis.set_xlabel("GPUs")
        axis.set_ylabel(field.replace("_per_s", "/s").replace("_", " "))
        axis.yaxis.set_major_formatter(FuncFormatter(_plain))
        axis.set_ylim(bottom=0)
        axis.margins(x=0.15)
        axis.legend()
    return figure


def loss_curves(
    *runs: Record, labels: list[str] | None = None, repeat: int = 0
) -> Figure:
    """Draw the training loss of each run over its steps."""
    with style.drawing() as (figure, (axis,)):
        for index, run in enumerate(runs):
            steps = [
                (event["step"], event["loss"])
                for event in run.metrics(repeat)
                if event.get("event") == "step"
            ]
            if not steps:
                raise UserError(
                    f"the run {run.name} logged no step in repeat {repeat}: "
                    "draw a run that trains"
                )
            look = _series(index, _label(index, run, labels))
            axis.plot(*zip(*steps, strict=True), **{**look, "marker": ""})
        axis.set_xlabel("step")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_ylabel("loss (nats a token)")
        axis.legend()
    return figure


def _with_range(
    axis: Axes, points: list[tuple[int, dict]], look: dict
) -> None:
    """Plot medians with bars from the least to the greatest repeat."""
    middle = [entry["median"] for _, entry in points]
    below = [m - e["min"] for m, (_, e) in zip(middle, points, strict=True)]
    above = [e["max"] - m for m, (_, e) in zip(middle, points, strict=True)]
    xs = [x for x, _ in points]
    axis.errorbar(xs, middle, yerr=[below, above], capsize=2, **look)


def _series(index: int, label: str) -> dict:
    return {
        "color": style.SERIES[index % len(style.SERIES)],
        "marker": style.MARKERS[index % len(style.MARKERS)],
        "label": label,
    }


def _label(index: int, run: Record, labels: list[str] | None) -> str:
    return labels[index] if labels else run.name.rpartition("/")[2]


def _plain(value: float, _: object = None) -> str:
    whole = value >= 1e-3 or value == 0
    return f"{value:,g}" if whole else f"{value:.0e}"


def _bytes(size: float, _: object = None) -> str:
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{size / scale:g} {unit}"
    return f"{size:g} B"
