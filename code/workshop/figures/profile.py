"""Figures of profiles: where a step's time goes, and its memory.

They read `profile.json`, which `profiling.profile.Profiler` leaves in a
run's artifacts: of all ranks or of one.
"""

import json
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workshop.errors import UserError
from workshop.figures import style
from workshop.figures.bars import (
    GROUP_COLOURS,
    PARTS,
    bars,
    groups,
    parts,
)
from workshop.records.values import Record

PROFILE = "artifacts/profile.json"
KINDS = {
    "compute": style.COMPUTE,
    "communication": style.COMMUNICATION,
    "other": style.OTHER,
}
PASSES = {"F": style.GREEN, "B": style.PURPLE}
PASS_NAMES = {"F": "forward", "B": "backward"}
READABLE = 0.018
"""The least part of the width that a micro-batch's number needs."""


def ranks_of(run: Record, artifact: str = PROFILE) -> list[dict]:
    """Return the profile of each rank of a run.

    Raises:
        UserError: the run has no such profile.
    """
    try:
        text = (Path(run.folder) / artifact).read_text(encoding="utf-8")
        profile = json.loads(text)
        ranks = profile.get("ranks", [profile])
        if not all("timeline" in rank for rank in ranks):
            raise ValueError
    except (OSError, ValueError, AttributeError):
        raise UserError(
            f"the run {run.name} has no profile {artifact}: record it again "
            "with --profile"
        ) from None
    return ranks


def timeline(run: Record, artifact: str = PROFILE) -> Figure:
    """Draw one profiled step of every rank, on one clock.

    Each rank has a lane for compute, for communication and for copies,
    where it had any, and above them the forward (F) and backward (B) of
    each micro-batch, with its number where there is room.
    """
    ranks = ranks_of(run, artifact)
    end = max(rank.get("offset_ms", 0.0) + rank["step_ms"] for rank in ranks)
    lanes = [_lanes(rank) for rank in ranks]
    height = 1.2 + 0.28 * sum(len(names) + 1 for names in lanes)
    with style.drawing(width=9.0, height=height) as (figure, (axis,)):
        row, ticks, labels = 0, [], []
        for place, (rank, names) in enumerate(zip(ranks, lanes, strict=True)):
            offset = rank.get("offset_ms", 0.0)
            for name in names:
                if name == "passes":
                    _draw_passes(axis, rank["ranges"], row, offset, end)
                else:
                    _draw_spans(axis, rank, name, row, offset)
                row += 1
            ticks.append(row - len(names) / 2 - 0.5)
            labels.append(f"rank {place}")
            row += 1
        shown = {name for names in lanes for name in names}
        _legend(axis, shown)
        axis.set_yticks(ticks, labels)
        axis.tick_params(axis="y", length=0)
        axis.grid(False, axis="y")
        axis.set_axisbelow(True)
        axis.set_xlim(0, end)
        axis.set_ylim(row - 1.4, -0.6)
        axis.set_xlabel("time in the step (ms)")
    return figure


def _lanes(rank: dict) -> list[str]:
    """Return the lanes of a rank, from above."""
    kinds = {row["kind"] for row in rank["timeline"]}
    passes = any(name[0] in PASSES for name, _, _ in rank.get("ranges", []))
    return ["passes"] * passes + [kind for kind in KINDS if kind in kinds]


def _draw_spans(
    axis: Axes, rank: dict, kind: str, row: int, offset: float
) -> None:
    for lane in rank["timeline"]:
        if lane["kind"] == kind:
            axis.broken_barh(
                [(offset + begin, long) for begin, long in lane["spans"]],
                (row - 0.42, 0.84),
                color=KINDS[kind],
                linewidth=0,
            )


def _draw_passes(
    axis: Axes, ranges: list[list], row: int, offset: float, end: float
) -> None:
    for name, begin, long in ranges:
        if name[0] not in PASSES:
            continue
        axis.broken_barh(
            [(offset + begin, long)],
            (row - 0.42, 0.84),
            facecolor="none",
            edgecolor=PASSES[name[0]],
            linewidth=1.4,
        )
        if long >= READABLE * end:
            axis.text(
                offset + begin + long / 2,
                row,
                name[1:],
                ha="center",
                va="center",
                fontsize=8,
            )


def _legend(axis: Axes, shown: set[str]) -> None:
    entries = {kind: KINDS[kind] for kind in KINDS if kind in shown}
    if "passes" in shown:
        entries |= {PASS_NAMES[kind]: PASSES[kind] for kind in PASSES}
    for label, colour in entries.items():
        axis.plot([], [], color=colour, lw=6, label=label)
    axis.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(entries)
    )


def memory(*runs: Record, artifact: str = PROFILE) -> Figure:
    """Draw the allocated memory of every rank over the profiled step.

    Raises:
        UserError: a profile holds no memory.
    """
    with style.drawing(width=7.5, height=3.6) as (figure, (axis,)):
        index, from_zero = 0, True
        for run in runs:
            for place, rank in enumerate(ranks_of(run, artifact)):
                memory = rank.get("memory")
                if memory is None:
                    raise UserError(
                        f"the profile {artifact} of the run {run.name} "
                        "holds no memory: record it again with --profile"
                    )
                at, gib = zip(*memory["points"], strict=True)
                offset = rank.get("offset_ms", 0.0)
                label = f"rank {place}, at most {memory['peak_gib']:.3g} GiB"
                if len(runs) > 1:
                    label = f"{run.name.rpartition('/')[2]}, {label}"
                axis.step(
                    [offset + ms for ms in (*at, rank["step_ms"])],
                    [*gib, gib[-1]],
                    where="post",
                    color=style.SERIES[index % len(style.SERIES)],
                    linestyle=("-", "--", ":")[
                        index // len(style.SERIES) % 3
                    ],
                    linewidth=1.2,
                    label=label,
                )
                from_zero = from_zero and memory["from_zero"]
                index += 1
        axis.set_ylim(bottom=0)
        axis.set_xlim(left=0)
        axis.set_xlabel("time in the step (ms)")
        since = "" if from_zero else ", since the profile began"
        axis.set_ylabel(f"allocated (GiB{since})")
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


def before_after(
    run_a: Record, run_b: Record, artifact: str = PROFILE
) -> Figure:
    """Draw what a step of two runs is made of: every rank a bar."""
    return bars(_rows((run_a, run_b), artifact), parts, PARTS)


def kernel_groups(*runs: Record, artifact: str = PROFILE) -> Figure:
    """Draw the time in each group of kernels: every rank of each a bar.

    Computation on several streams adds up and communication may run beside
    it, so that a bar may be longer than the step.
    """
    return bars(_rows(runs, artifact), groups, GROUP_COLOURS)


def layouts(run: Record) -> Figure:
    """Draw `before_after` for the profiles of one run, a folder each."""
    return bars(_folders(run), parts, PARTS)


def layout_groups(run: Record) -> Figure:
    """Draw `kernel_groups` for the profiles of one run, a folder each."""
    return bars(_folders(run), groups, GROUP_COLOURS)


def _rows(runs: tuple[Record, ...], artifact: str) -> list[tuple[str, dict]]:
    return [
        (f"{run.name.rpartition('/')[2]}\nrank {place}", rank)
        for run in runs
        for place, rank in enumerate(ranks_of(run, artifact))
    ]


def _folders(run: Record) -> list[tuple[str, dict]]:
    """Return each rank of each `profile.json` below `artifacts`, by name.

    A profile in `artifacts/dp1/ours` is called `dp1 ours`.

    Raises:
        UserError: the run has none.
    """
    root = Path(run.folder)
    kept = root / "artifacts"
    profiles = [
        (f"{' '.join(path.relative_to(kept).parts[:-1])}\nrank {place}", rank)
        for path in sorted(kept.glob("*/**/profile.json"))
        for place, rank in enumerate(
            ranks_of(run, str(path.relative_to(root)))
        )
    ]
    if not profiles:
        raise UserError(
            f"the run {run.name} has no profiles in folders of its "
            "artifacts: record it again with --profile"
        )
    return profiles
