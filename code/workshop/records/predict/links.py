"""The two numbers of a link, α and β, as a run of measure_links has them."""

from workshop.records.load import Run
from workshop.records.values import values


def alpha_beta(run: Run) -> tuple[float, float]:
    """Return α in seconds and β in bytes a second of a run's all-reduce.

    They are the run's own fit.  On a busy machine the times may not grow
    with the messages, and then there is none: the time of the shortest
    message stands for α and the bandwidth of the longest one for β.

    Raises:
        UserError: the run measured no all-reduce.
    """
    if "all_reduce_alpha" in run.summary:
        alpha = run.summary["all_reduce_alpha"]["median"]
        beta = run.summary["all_reduce_beta"]["median"]
        return alpha * 1e-6, beta * 1e9
    times = {
        int(labels["bytes"]): entry["median"] * 1e-6
        for labels, entry in values(run, "all_reduce_time")
    }
    return times[min(times)], max(times) / times[max(times)]
