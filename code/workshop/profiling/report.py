"""The profile of a whole job: its table, its bubble, its files."""

import json
from pathlib import Path

from workshop.errors import UserError
from workshop.job.metrics import MetricsWriter
from workshop.profiling.groups import GROUPS

TIMES = {
    "step_ms": "step",
    "compute_ms": "compute",
    "communication_ms": "communication",
    "exposed_communication_ms": "exposed",
    "idle_ms": "idle",
}
LEFT_OUT = "n/a"
KERNEL_WIDTH = 52


def table(ranks: list[dict]) -> str:
    """Return the profile as text: ranks, groups of kernels, top kernels."""
    first = ranks[0]
    what = "kernels" if first["on_gpu"] else "operations"
    lines = [
        f"step {first['step']} of the run, in ms",
        _row("rank", [*TIMES.values(), "hidden", "memory"]),
    ]
    for place, rank in enumerate(ranks):
        hidden, memory = rank["overlap_fraction"], rank["memory"]
        cells = [f"{rank[field]:.1f}" for field in TIMES]
        cells.append(LEFT_OUT if hidden is None else f"{100 * hidden:.0f} %")
        cells.append(
            LEFT_OUT if memory is None else f"{memory['peak_gib']:.2f} GiB"
        )
        lines.append(_row(str(place), cells))
    if not first["on_gpu"]:
        lines.append("on the CPU memory counts from the profile's start")
    lines += ["", f"{what} by group, in ms"]
    names = [f"rank {place}" for place in range(len(ranks))]
    lines.append(_row("", names, 18))
    lines += [
        _row(group, [f"{rank['groups'][group]:.1f}" for rank in ranks], 18)
        for group in GROUPS
    ]
    lines += ["", f"the longest {what} of rank 0, in ms"]
    lines += [
        f"{row['ms']:8.2f} {row['count']:6d} ×  {row['group']:<15}  "
        f"{_cut(row['name'])}"
        for row in first["kernels"]
    ]
    pipeline = bubble(ranks)
    if pipeline:
        lines += ["", _idle(pipeline)]
    return "\n".join(lines)


def _idle(pipeline: dict) -> str:
    return (
        f"pipeline: {pipeline['span_ms']:.1f} ms from the first forward to "
        f"the last backward,\nof which a rank idles {pipeline['bubble']:.1%} "
        f"on average: {pipeline['imbalance']:.1%} unequal stages, "
        f"{pipeline['schedule']:.1%} waiting,\n"
        f"where the schedule alone makes it wait {pipeline['formula']:.1%}"
    )


def _row(head: str, cells: list[str], width: int = 5) -> str:
    return f"{head:<{width}}" + "".join(f"{cell:>15}" for cell in cells)


def _cut(name: str) -> str:
    bare = name.removeprefix("void ")
    if len(bare) <= KERNEL_WIDTH:
        return bare
    return f"{bare[: KERNEL_WIDTH - 1]}…"


def bubble(ranks: list[dict]) -> dict | None:
    """Return how much of the pipeline's time its ranks do not compute.

    The span goes from the first forward of a micro-batch on any rank to
    the last backward on any, and a rank is busy in its F and B.  With
    stages of equal cost `schedule` is (p - 1) / (m + p - 1) for GPipe and
    1F1B (Narayanan et al. 2021, arXiv:2104.04473, section 2.2, there as a
    share of the ideal time).

    Returns:
        `span_ms`; `bubble`, 1 - mean busy / span; its two parts:
        `schedule`, 1 - greatest busy / span, which is all that the slowest
        rank waits, and `imbalance`, the rest; and `formula`, what it would
        wait if every pass took its mean time and no message any:
        (p - 1) / (v m + p - 1), of v chunks a rank.
        None when a rank has no micro-batches by name.
    """
    spans = [_micro_batches(rank) for rank in ranks]
    if not all(spans):
        return None
    begin = min(spans_[0][0] for spans_ in spans)
    end = max(b + d for spans_ in spans for b, d in spans_)
    busy = [sum(d for _, d in spans_) for spans_ in spans]
    span, mean = end - begin, sum(busy) / len(busy)
    passes, others = len(spans[0]) / 2, len(ranks) - 1
    return {
        "span_ms": span,
        "bubble": 1 - mean / span,
        "schedule": 1 - max(busy) / span,
        "imbalance": (max(busy) - mean) / span,
        "formula": others / (passes + others),
    }


def _micro_batches(rank: dict) -> list[tuple[float, float]]:
    """Return (begin, length) of every F and B on the clock of rank 0."""
    return sorted(
        (rank["offset_ms"] + begin, length)
        for name, begin, length in rank["ranges"]
        if name[0] in "FB"
    )


def write(
    ranks: list[dict],
    traces: list[bytes],
    folder: str | Path,
    writer: MetricsWriter,
) -> str:
    """Write `profile.json`, `profile.txt` and each rank's trace.

    The measures have the label `rank`: the fields of `measure_window`,
    `group_ms` (label `group`), `profiled_peak` and, for a pipeline,
    `bubble_fraction`, `schedule_bubble_fraction` and `imbalance_fraction`
    without a label.

    Returns:
        the table.

    Raises:
        UserError: the folder takes no files.
    """
    text, pipeline = table(ranks), bubble(ranks)
    each = ",\n".join(json.dumps(r, ensure_ascii=False) for r in ranks)
    whole = f'{{"pipeline": {json.dumps(pipeline)},\n"ranks": [\n{each}]}}'
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "profile.json").write_text(f"{whole}\n", encoding="utf-8")
        (folder / "profile.txt").write_text(f"{text}\n", encoding="utf-8")
        for place, trace in enumerate(traces):
            (folder / f"trace.rank{place}.json.gz").write_bytes(trace)
    except OSError as error:
        raise UserError(
            f"no profile can be written to {folder} ({error.strerror}): set "
            "WORKSHOP_ARTIFACTS to a folder with room and permission"
        ) from None
    for place, rank in enumerate(ranks):
        _measure(rank, writer, place)
    for name in ("bubble", "schedule", "imbalance") if pipeline else ():
        full = {"schedule": "schedule_bubble"}.get(name, name)
        writer.measure(f"{full}_fraction", pipeline[name], "")
    return text


def _measure(rank: dict, writer: MetricsWriter, place: int) -> None:
    for name, value in rank.items():
        if name.endswith(("_ms", "_fraction")):
            unit = "ms" if name.endswith("_ms") else ""
            if value is not None and name != "offset_ms":
                writer.measure(name, value, unit, rank=place)
    for group, value in rank["groups"].items():
        label = group.replace(" ", "-")
        writer.measure("group_ms", value, "ms", rank=place, group=label)
    if rank["memory"] is not None:
        peak = rank["memory"]["peak_gib"]
        writer.measure("profiled_peak", peak, "GiB", rank=place)
