"""Figures of chapter 02 that compare ways of data parallelism.

All are drawn from the record of `lab1/compare-data-parallel`.
"""

import json
from pathlib import Path

from matplotlib.figure import Figure

from workshop.errors import UserError
from workshop.figures import style
from workshop.profiling.events import activities, read
from workshop.records.values import Record, values

LABELS = {
    "single": "one GPU, the other idle",
    "alone": "both, no communication",
    "naive": "ours, naive",
    "overlapped": "ours, copy engines",
    "overlapped-collective": "ours, NCCL",
    "ddp": "torch's DDP",
    "nanogpt-alone": "nanoGPT, no communication",
    "nanogpt-ddp": "nanoGPT, DDP",
}
TRACED = ("alone", "overlapped", "overlapped-collective", "ddp")
KINDS = {"compute": style.COMPUTE, "communication": style.COMMUNICATION}


def contestants(run: Record) -> Figure:
    """Draw the TFLOP/s per GPU of each way to train, with its range."""
    speeds = {
        labels["contestant"]: entry
        for labels, entry in values(run, "tflops_per_gpu")
    }
    names = [name for name in LABELS if name in speeds]
    with style.drawing(width=7.5, height=0.7 + 0.38 * len(names)) as (
        figure,
        (axis,),
    ):
        for row, name in enumerate(names):
            entry = speeds[name]
            silent = "alone" in name or name == "single"
            axis.barh(
                row,
                entry["median"],
                color=style.COMPUTE if silent else style.COMMUNICATION,
                height=0.6,
            )
            middle = entry["median"]
            error = [[middle - entry["min"]], [entry["max"] - middle]]
            axis.errorbar(middle, row, xerr=error, color=style.TEXT)
            axis.annotate(
                f"{middle:.0f}",
                (entry["max"], row),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
            )
        axis.set_yticks(range(len(names)), [LABELS[name] for name in names])
        axis.invert_yaxis()
        axis.grid(False, axis="y")
        axis.set_axisbelow(True)
        axis.set_xlim(0, 1.1 * max(e["max"] for e in speeds.values()))
        axis.set_xlabel("TFLOP/s per GPU")
    return figure


def contestant_steps(run: Record) -> Figure:
    """Draw one profiled step of each traced way to train, one below the
    other: compute above, communication beneath it.

    Raises:
        UserError: the run has no profile of one of them.
    """
    with style.drawing(width=9.0, height=4.2) as (figure, (axis,)):
        ticks = []
        for place, name in enumerate(TRACED):
            for row in _profile(run, name)["timeline"]:
                if row["kind"] not in KINDS:
                    continue
                lane = list(KINDS).index(row["kind"])
                top = 2.5 * place + lane
                axis.broken_barh(
                    [tuple(span) for span in row["spans"]],
                    (top - 0.45, 0.9),
                    color=KINDS[row["kind"]],
                    linewidth=0,
                )
            ticks.append(2.5 * place + 0.5)
        for kind, colour in KINDS.items():
            axis.plot([], [], color=colour, lw=6, label=kind)
        axis.set_yticks(ticks, [LABELS[name] for name in TRACED])
        axis.grid(False, axis="y")
        axis.set_axisbelow(True)
        axis.invert_yaxis()
        axis.set_xlabel("time in the step (ms)")
        axis.legend(
            loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(KINDS)
        )
    return figure


def _profile(run: Record, name: str) -> dict:
    path = Path(run.folder) / "artifacts" / name / "profile.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(
            f"the run {run.name} has no profile of {name}: record it again "
            "with --trace"
        ) from None


def slowed_kernels(run: Record, most: int = 2) -> Figure:
    """Draw the longest kernels alone and beside communication.

    Only kernels that ran both ways can be compared, and these are not the
    same ones for every way to train.
    """
    rows = [
        (LABELS[name], kernel)
        for name in TRACED
        for kernel in _profile(run, name)["slowdown"]["kernels"][:most]
    ]
    height = 1.2 + 0.55 * len(rows)
    with style.drawing(width=8.0, height=height) as (figure, (axis,)):
        for place, (_, kernel) in enumerate(rows):
            for offset, field, colour in (
                (-0.18, "alone_us", style.COMPUTE),
                (0.18, "beside_us", style.COMMUNICATION),
            ):
                axis.barh(
                    place + offset, kernel[field], color=colour, height=0.34
                )
            axis.annotate(
                f"× {kernel['ratio']:.2f}",
                (max(kernel["alone_us"], kernel["beside_us"]), place),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
            )
        for colour, label in (
            (style.COMPUTE, "alone"),
            (style.COMMUNICATION, "beside communication"),
        ):
            axis.plot([], [], color=colour, lw=6, label=label)
        axis.set_yticks(
            range(len(rows)),
            [
                f"{way}\n{_short(kernel['name'])}, grid {kernel['grid']}"
                for way, kernel in rows
            ],
        )
        axis.invert_yaxis()
        axis.grid(False, axis="y")
        axis.set_axisbelow(True)
        axis.margins(x=0.12)
        axis.set_xlabel("median time of a launch (µs)")
        axis.legend(loc="lower center", bbox_to_anchor=(0.4, 1), ncols=2)
    return figure


def _short(kernel: str) -> str:
    """Return what a reader recognises of a kernel's long name."""
    bare = kernel.removeprefix("void ").split("<")[0]
    return bare if len(bare) <= 24 else f"{bare[:22]}…"


PARTS = (
    ("pulling from the peer", "Memcpy PtoP"),
    ("packing into buckets", "Memcpy DtoD"),
    ("waiting for the peer", "barrier"),
)


def communication_parts(run: Record, name: str = "overlapped") -> Figure:
    """Draw what the copy engines' stream does in the traced step."""
    path = Path(run.folder) / "artifacts" / name / "trace.json.gz"
    times = dict.fromkeys((*(label for label, _ in PARTS), "averaging"), 0.0)
    for a in activities(read(path)["traceEvents"]):
        if a.kind != "communication":
            continue
        part = next((p for p, mark in PARTS if mark in a.name), "averaging")
        times[part] += (a.end - a.begin) / 1e3
    with style.drawing(width=7.0, height=2.2) as (figure, (axis,)):
        axis.barh(
            range(len(times)),
            list(times.values()),
            color=style.COMMUNICATION,
            height=0.6,
        )
        for row, value in enumerate(times.values()):
            axis.annotate(f"{value:.1f}", (value, row), (5, 0), va="center",
                          textcoords="offset points")  # fmt: skip
        axis.set_yticks(range(len(times)), list(times))
        axis.invert_yaxis()
        axis.grid(False, axis="y")
        axis.set_axisbelow(True)
        axis.margins(x=0.1)
        axis.set_xlabel("time in the step (ms)")
    return figure
