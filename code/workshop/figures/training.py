"""Figures of chapter 02, drawn from the records of training runs."""

import numpy as np
from matplotlib.figure import Figure

from workshop.figures import style
from workshop.figures.bars import rows, spans
from workshop.figures.profile import IN_STEP, KINDS
from workshop.figures.recorded import ranks_of
from workshop.records.predict.layouts import step_of_one_gpu
from workshop.records.values import Record, values

# By 6N + 12Lhs, backward has two of the three shares of the work.
BACKWARD = 2 / 3


def one_step(run: Record) -> Figure:
    """Draw what each GPU stream did during the profiled step of a run."""
    rank = ranks_of(run)[0]
    streams = sorted({(row.device, row.stream) for row in rank.timeline})
    names = [f"stream {stream}" for _, stream in streams]
    with rows(names, IN_STEP, width=9.0) as (figure, axis):
        for row in sorted(
            rank.timeline, key=lambda row: [*KINDS].index(row.kind)
        ):
            y = streams.index((row.device, row.stream))
            spans(axis, y, row.spans, KINDS[row.kind], row.kind, 0.7)
    return figure


def learning(run: Record) -> Figure:
    """Draw the loss on the training text and on held-out text."""
    losses = [
        (event["step"], event["loss"])
        for event in run.metrics(0)
        if event.get("event") == "step"
    ]
    held_out = sorted(
        (int(labels["step"]), entry["median"])
        for labels, entry in values(run, "held_out_loss")
    )
    with style.drawing(width=6.4, height=3.4) as (figure, (axis,)):
        axis.plot(
            *zip(*losses, strict=True), color=style.BLUE, label="training"
        )
        axis.plot(
            *zip(*held_out, strict=True),
            "s",
            color=style.ORANGE,
            label="held-out",
        )
        axis.set_xlabel("step")
        axis.set_ylabel("loss (nats a token)")
        axis.legend()
    return figure


def hiding(
    alone: Record,
    fast: Record,
    slow: Record,
    fast_naive: Record,
    fast_overlapped: Record,
    slow_naive: Record,
    slow_overlapped: Record,
) -> Figure:
    """Draw the step over the link's bandwidth: two models, four runs.

    Args:
        alone: a record with a `step_of_one_gpu`.
        fast, slow: the all-reduce curves of the two links.
        fast_naive, fast_overlapped, slow_naive, slow_overlapped: the same
            model on two GPUs over each link.

    The models take the step of one GPU and an all-reduce of M / β: naive
    adds it, overlapped adds what exceeds the backward pass.
    """
    step = step_of_one_gpu(alone) * 1e3
    message = _gradient_bytes(alone)
    bandwidth = np.geomspace(1, 1000, 200)
    talk = message / (bandwidth * 1e9) * 1e3
    with style.drawing(width=7.0, height=3.8) as (figure, (axis,)):
        axis.axhline(step, color=style.TEXT, linestyle=":", linewidth=1.2)
        axis.annotate("one GPU", (1, step), (2, -12), color=style.TEXT,
                      textcoords="offset points")  # fmt: skip
        ways = (
            ("naive", style.ORANGE, "s", step + talk,
             (fast_naive, slow_naive)),
            ("overlapped", style.BLUE, "o",
             step + np.maximum(0, talk - BACKWARD * step),
             (fast_overlapped, slow_overlapped)),
        )  # fmt: skip
        for label, colour, marker, model, runs in ways:
            axis.plot(bandwidth, model, color=colour, label=f"{label}, model")
            axis.plot(
                [link.summary["all_reduce_beta"]["median"]
                 for link in (fast, slow)],
                [run.summary["step_time_s"]["median"] * 1e3 for run in runs],
                marker,
                color=colour,
                markersize=7,
                label=f"{label}, measured",
            )  # fmt: skip
        style.logarithmic(axis.xaxis)
        style.logarithmic(axis.yaxis)
        ticks = [step, 2 * step, 4 * step, 8 * step]
        axis.set_yticks(ticks, [f"{tick:.0f}" for tick in ticks])
        axis.set_ylim(step / 1.25, None)
        axis.set_xlabel("bandwidth of the all-reduce (GB/s)")
        axis.set_ylabel("step (ms)")
        axis.legend()
    return figure


def _gradient_bytes(run: Record) -> int:
    """Return the bytes of a run's gradients, bfloat16 as the weights."""
    meta = run.metrics(0)[0]
    return 2 * meta["parameters"]
