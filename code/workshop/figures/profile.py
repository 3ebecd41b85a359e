"""Figures of profiles: where a step's time goes, and its memory.

They read `profile.json`, which `profiling.profile.Profiler` leaves in a
run's artifacts: of all ranks or of one.
"""

from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workshop.errors import UserError
from workshop.figures import style
from workshop.figures.bars import rows, spans, stack, write
from workshop.figures.recorded import Rank, ranks_of
from workshop.records.values import Record

IN_STEP = "time in the step (ms)"
KINDS = {
    "compute": style.COMPUTE,
    "communication": style.COMMUNICATION,
    "other": style.OTHER,
}
PASSES = {"F": style.GREEN, "B": style.PURPLE}
PASS_NAMES = {"F": "forward", "B": "backward"}
READABLE = 0.018
"""The least part of the width that a micro-batch's number needs."""
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


def step_timeline(run: Record) -> Figure:
    """Draw one profiled step of every rank, on one clock.

    Each rank has a lane for compute, for communication and for copies,
    where it had any, and above them the forward (F) and backward (B) of
    each micro-batch, with its number where there is room.
    """
    ranks = ranks_of(run)
    end = max(rank.offset_ms + rank.step_ms for rank in ranks)
    lanes = [_lanes(rank) for rank in ranks]
    *tops, below = accumulate((len(kinds) + 1 for kinds in lanes), initial=0)
    with rows(
        [f"rank {place}" for place in range(len(ranks))],
        IN_STEP,
        width=9.0,
        height=0.28 * below / len(ranks),
        at=[
            top + (len(kinds) - 1) / 2
            for top, kinds in zip(tops, lanes, strict=True)
        ],
    ) as (figure, axis):
        axis.tick_params(axis="y", length=0)
        axis.set(xlim=(0, end), ylim=(below - 1.4, -0.6))
        for rank, kinds, top in zip(ranks, lanes, tops, strict=True):
            for lane, kind in enumerate(kinds, top):
                if kind == "passes":
                    _draw_passes(axis, rank, lane, end)
                    continue
                for row in (r for r in rank.timeline if r.kind == kind):
                    times = [(rank.offset_ms + b, d) for b, d in row.spans]
                    spans(axis, lane, times, KINDS[kind], kind)
        if any("passes" in kinds for kinds in lanes):
            for kind, name in PASS_NAMES.items():  # last in the legend
                spans(axis, 0, [], PASSES[kind], name, filled=False)
    return figure


def _lanes(rank: Rank) -> list[str]:
    """Return the lanes of a rank, from above."""
    kinds = {row.kind for row in rank.timeline}
    passes = any(name[0] in PASSES for name, _, _ in rank.ranges)
    return ["passes"] * passes + [kind for kind in KINDS if kind in kinds]


def _draw_passes(axis: Axes, rank: Rank, y: int, end: float) -> None:
    for name, begin, long in rank.ranges:
        if name[0] not in PASSES:
            continue
        colour = PASSES[name[0]]
        begin += rank.offset_ms
        spans(axis, y, [(begin, long)], colour, "", filled=False)
        if long >= READABLE * end:
            axis.text(
                begin + long / 2, y, name[1:],
                ha="center", va="center", fontsize=8,
            )  # fmt: skip


def memory(*runs: Record) -> Figure:
    """Draw the allocated memory of every rank over the profiled step.

    Raises:
        UserError: a profile holds no memory.
    """
    with style.drawing(width=7.5, height=3.6) as (figure, (axis,)):
        index, from_zero = 0, True
        for run in runs:
            for place, rank in enumerate(ranks_of(run)):
                memory = rank.memory
                if memory is None:
                    raise UserError(
                        f"the profile of the run {run.name} holds no "
                        "memory: record it again with --profile"
                    )
                at, gib = zip(*memory.points, strict=True)
                offset = rank.offset_ms
                label = f"rank {place}, at most {memory.peak_gib:.3g} GiB"
                if len(runs) > 1:
                    label = f"{run.name.rpartition('/')[2]}, {label}"
                axis.step(
                    [offset + ms for ms in (*at, rank.step_ms)],
                    [*gib, gib[-1]],
                    where="post",
                    color=style.SERIES[index % len(style.SERIES)],
                    linestyle=("-", "--", ":")[
                        index // len(style.SERIES) % 3
                    ],
                    linewidth=1.2,
                    label=label,
                )
                from_zero = from_zero and memory.from_zero
                index += 1
        axis.set_ylim(bottom=0)
        axis.set_xlim(left=0)
        axis.set_xlabel(IN_STEP)
        since = "" if from_zero else ", since the profile began"
        axis.set_ylabel(f"allocated (GiB{since})")
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


def before_after(run_a: Record, run_b: Record) -> Figure:
    """Draw what a step of two runs is made of: every rank a bar."""
    return _bars(_ranks((run_a, run_b)), parts, PARTS)


def kernel_groups(*runs: Record) -> Figure:
    """Draw the time in each group of kernels: every rank of each a bar.

    Computation on several streams adds up and communication may run beside
    it, so that a bar may be longer than the step.
    """
    return _bars(_ranks(runs), groups, GROUP_COLOURS)


def layouts(run: Record) -> Figure:
    """Draw `before_after` for the profiles of one run, a folder each."""
    return _bars(_folders(run), parts, PARTS)


def layout_groups(run: Record) -> Figure:
    """Draw `kernel_groups` for the profiles of one run, a folder each."""
    return _bars(_folders(run), groups, GROUP_COLOURS)


def parts(rank: Rank) -> dict[str, float]:
    """Return the ms of `PARTS` of a rank's step, which add up to it."""
    compute, exposed = rank.compute_ms, rank.exposed_communication_ms
    rest = max(0.0, rank.step_ms - compute - exposed - rank.idle_ms)
    times = compute, exposed, rest, rank.idle_ms
    return dict(zip(PARTS, times, strict=True))


def groups(rank: Rank) -> dict[str, float]:
    """Return the ms of each group of kernels in a rank's step."""
    return rank.groups


def _bars(
    ranks: list[tuple[str, Rank]],
    split: Callable[[Rank], dict[str, float]],
    colours: dict[str, str],
) -> Figure:
    with rows([name for name, _ in ranks], IN_STEP) as (figure, axis):
        ends = stack(axis, [split(rank) for _, rank in ranks], colours)
        write(
            axis,
            [f"{end:.0f}" if end >= 10 else f"{end:.2g}" for end in ends],
            ends,
        )
    return figure


def _ranks(runs: tuple[Record, ...]) -> list[tuple[str, Rank]]:
    return [
        (f"{run.name.rpartition('/')[2]}\nrank {place}", rank)
        for run in runs
        for place, rank in enumerate(ranks_of(run))
    ]


def _folders(run: Record) -> list[tuple[str, Rank]]:
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
