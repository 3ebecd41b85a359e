"""What each layout of a recorded `compare_layouts` reached, as text."""

from workshop.records.values import Record, values

HEAD = "         k tokens/s  of two alone   GiB"


def table(run: Record) -> str:
    """Return a row a layout: speed, share of all GPUs alone, the worst rank.

    `imbalance` is what the busiest rank computes beyond the mean in a
    profiled step, and left out where the run has no profile. What such a
    step exposes is not that of others: a profiler slows the host, and a
    pipeline of many small operations waits for it.
    """
    alone = run.summary["tokens_per_s{layout=alone}"]["median"]
    profiled = any(key.startswith("compute_ms{") for key in run.summary)
    lines = [f"{run.name}", HEAD + "  imbalance" * profiled]
    for labels, entry in values(run, "tokens_per_s"):
        layout, speed = labels["layout"], entry["median"]
        row = (
            f"{layout:9}{speed / 1e3:10.1f}{speed / alone:14.1%}"
            f"{max(_of_ranks(run, 'memory_gib', layout)):6.1f}"
        )
        busy = profiled and _of_ranks(run, "compute_ms", layout)
        if busy:
            beyond = max(busy) * len(busy) / sum(busy) - 1
            row += f"{beyond:11.1%}"
        lines.append(row)
    return "\n".join(lines)


def _of_ranks(run: Record, metric: str, layout: str) -> list[float]:
    return [
        entry["median"]
        for labels, entry in values(run, metric)
        if labels["layout"] == layout
    ]
