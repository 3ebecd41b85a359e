"""Figures of chapter 02 that compare ways of data parallelism.

All are drawn from the record of `lab1/compare-data-parallel`.
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from workshop.figures import style
from workshop.figures.bars import rows, spans, write
from workshop.figures.profile import IN_STEP, KINDS
from workshop.figures.recorded import Rank, ranks_of
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
LANES = {"compute": -0.19, "communication": 0.19}
PAIR = {
    "alone": (-0.18, style.COMPUTE),
    "beside communication": (0.18, style.COMMUNICATION),
}


def contestants(run: Record) -> Figure:
    """Draw the TFLOP/s per GPU of each way to train, with its range."""
    speeds = {
        labels["contestant"]: entry
        for labels, entry in values(run, "tflops_per_gpu")
    }
    names = [name for name in LABELS if name in speeds]
    middle, reach = style.ranges(speeds[name] for name in names)
    silent = ["alone" in name or name == "single" for name in names]
    colours = [style.COMPUTE if s else style.COMMUNICATION for s in silent]
    with rows(
        [LABELS[name] for name in names], "TFLOP/s per GPU", 7.5, 0.38
    ) as (figure, axis):
        axis.barh(
            range(len(names)), middle, 0.62, color=colours,
            xerr=reach, ecolor=style.TEXT,
        )  # fmt: skip
        write(axis, (f"{each:.0f}" for each in middle), middle + reach[1])
    return figure


def contestant_steps(run: Record) -> Figure:
    """Draw one profiled step of each traced way to train, one below the
    other: compute above, communication beneath it.

    Raises:
        UserError: the run has no profile of one of them.
    """
    names = [LABELS[name] for name in TRACED]
    with rows(names, IN_STEP, width=9.0, height=0.8) as (figure, axis):
        for place, name in enumerate(TRACED):
            for row in _profile(run, name).timeline:
                if row.kind in LANES:
                    y, colour = place + LANES[row.kind], KINDS[row.kind]
                    spans(axis, y, row.spans, colour, row.kind, height=0.36)
    return figure


def _profile(run: Record, name: str) -> Rank:
    return ranks_of(run, f"artifacts/{name}/profile.json")[0]


def slowed_kernels(run: Record) -> Figure:
    """Draw the longest kernels alone and beside communication.

    Only kernels that ran both ways can be compared, and these are not the
    same ones for every way to train.
    """
    pairs = [
        (LABELS[name], kernel)
        for name in TRACED
        for kernel in _profile(run, name).slowed[:2]
    ]
    names = [
        f"{way}\n{_short(kernel.name)}, grid {kernel.grid}"
        for way, kernel in pairs
    ]
    times = np.array([(k.alone_us, k.beside_us) for _, k in pairs])
    places = np.arange(len(pairs))
    with rows(names, "median time of a launch (µs)") as (figure, axis):
        for each, (label, (offset, colour)) in zip(
            times.T, PAIR.items(), strict=True
        ):
            axis.barh(places + offset, each, 0.34, color=colour, label=label)
        ratios = (f"× {kernel.ratio:.2f}" for _, kernel in pairs)
        write(axis, ratios, times.max(axis=1))
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


def communication_parts(run: Record) -> Figure:
    """Draw what the copy engines' stream does in the traced step."""
    path = Path(run.folder) / "artifacts/overlapped/trace.json.gz"
    times = dict.fromkeys((*(label for label, _ in PARTS), "averaging"), 0.0)
    for a in activities(read(path)["traceEvents"]):
        if a.kind != "communication":
            continue
        part = next((p for p, mark in PARTS if mark in a.name), "averaging")
        times[part] += (a.end - a.begin) / 1e3
    with rows(list(times), IN_STEP, width=7.0, height=0.3) as (figure, axis):
        axis.barh(
            range(len(times)), times.values(), 0.62,
            color=style.COMMUNICATION,
        )  # fmt: skip
        ends = list(times.values())
        write(axis, (f"{end:.1f}" for end in ends), ends)
    return figure
