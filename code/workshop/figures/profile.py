"""Figures of profiles: where a step's time goes.

They read `profile.json`, which `profiling.profile.Profiler` leaves in a
run's artifacts: of all ranks or of one.
"""

from pathlib import Path

from matplotlib.figure import Figure

from workshop.errors import UserError
from workshop.figures import style
from workshop.figures.bars import rows, stack, write
from workshop.figures.recorded import Rank, ranks_of
from workshop.records.values import Record

IN_STEP = "time in the step (ms)"
KINDS = {
    "compute": style.COMPUTE,
    "communication": style.COMMUNICATION,
    "other": style.OTHER,
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


def layout_groups(run: Record) -> Figure:
    """Draw the time in each group of kernels: a bar for every rank.

    The run has a profile a layout, each in a folder. Computation on several
    streams adds up and communication may run beside it, so that a bar may
    be longer than the step.
    """
    ranks = _folders(run)
    with rows([name for name, _ in ranks], IN_STEP) as (figure, axis):
        ends = stack(axis, [rank.groups for _, rank in ranks], GROUP_COLOURS)
        write(
            axis,
            [f"{end:.0f}" if end >= 10 else f"{end:.2g}" for end in ends],
            ends,
        )
    return figure


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
