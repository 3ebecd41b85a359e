"""Steps of layouts that nobody recorded, predicted from what was recorded.

A prediction takes the step of the model on one GPU, the rate at which that
GPU copies memory, and the all-reduce of a link for each axis of the layout.
The GPUs of two hosts differ by a few percent, so what is to be compared
with two GPUs of a host should start from one GPU of that host.
"""

from collections.abc import Mapping
from dataclasses import asdict

from workshop.estimate import communication, time
from workshop.layout import Layout
from workshop.models.gpt import CONFIGS
from workshop.records.values import Record, values

SEQUENCES = 128
"""The global batch in which layouts are compared, in sequences."""


def step_of_one_gpu(run: Record) -> float:
    """Return the seconds of a step on one GPU.

    Of a pretraining that is its step; of a comparison within one job, that
    of its contestant `single`, one GPU whose neighbour idles.
    """
    if "step_time_s" in run.summary:
        return run.summary["step_time_s"]["median"]
    speed = run.summary["tokens_per_s_per_gpu{contestant=single}"]["median"]
    sequence = CONFIGS[run.meta["model"]].sequence
    return run.meta["micro_batch"] * sequence / speed


def fitted(run: Record) -> dict:
    """Return the link of an all-reduce record: its fitted α and β."""
    alpha, beta = (
        run.summary[f"all_reduce_{name}"]["median"]
        for name in ("alpha", "beta")
    )
    return communication.link(alpha, beta)


def curve(run: Record) -> dict:
    """Return the link of an all-reduce record: the time of each size."""
    points = [
        (int(labels["bytes"]), entry["median"])
        for labels, entry in values(run, "all_reduce_time")
    ]
    return communication.link(*fitted(run).values(), points)


def shared(link: dict, users: int) -> dict:
    """Return the link that each of `users` has who use one at a time.

    A node has one way out, and both its GPUs talk through it.
    """
    slower = communication.link(link["alpha_us"], link["beta_gb_s"] / users)
    if "points" in link:
        points = [(size / users, us) for size, us in link["points"]]
        slower["points"] = points
    return slower


def predict(
    alone: Record,
    copies: Record,
    spread_over: Layout,
    links: Mapping[str, dict],
    overlap: bool = True,
) -> dict[str, float]:
    """Return the parts of a step in seconds, and its tokens a second.

    Args:
        alone: a record with a `step_of_one_gpu`.
        copies: a record that measured the GPU's `device_copy`.
        spread_over: the layout, from `workshop.layout.Layout`.
        links: the link of each of its axes: dp, tp, pp.
        overlap: whether messages run beside computation where they can.

    The update is what one GPU's step does not owe to the batch; the rest
    of it shrinks with the micro-batch and is shared by the ranks.
    """
    model = asdict(CONFIGS[alone.meta["model"]])
    rate = copies.summary["device_copy{rank=0}"]["median"]
    step = step_of_one_gpu(alone)
    whole = time.update_seconds(model, Layout(), rate)
    share = spread_over.micro_batch / alone.meta["micro_batch"]
    return time.step_time(
        model,
        spread_over,
        time.spread(model, spread_over, (step - whole) * share),
        links,
        optimizer=time.update_seconds(model, spread_over, rate),
        overlap=overlap,
    )


def two_ranks() -> dict[str, Layout]:
    """Return three ways to train one batch of `SEQUENCES` on two ranks."""
    return {
        "DP2": Layout(dp=2, micro_batch=16, num_microbatches=SEQUENCES // 32),
        "TP2": Layout(tp=2, micro_batch=16, num_microbatches=SEQUENCES // 16),
        "PP2": Layout(pp=2, micro_batch=4, num_microbatches=SEQUENCES // 4),
    }


def four_gpus(inside: dict, between: dict) -> dict[str, tuple[Layout, dict]]:
    """Return layouts of two nodes of two GPUs, with the link of each axis.

    Args:
        inside: the link between the GPUs of a node.
        between: the link between the nodes, which two pairs of GPUs share.
    """
    cases = {
        "DP4": (
            Layout(dp=4, micro_batch=16, num_microbatches=SEQUENCES // 64),
            {"dp": between},
        )
    }
    for first, second, split in (
        ("tp", "dp", False),
        ("tp", "pp", False),
        ("tp", "pp", True),
        ("dp", "pp", False),
        ("pp", "dp", False),
        ("dp", "tp", False),
    ):
        axes = {first: 2, second: 2}
        size = 4 if "pp" in axes else 16
        name = f"{first.upper()}2{', SP' * split} inside"
        cases[f"{name}, {second.upper()}2 across"] = (
            Layout(
                **axes,
                micro_batch=size,
                num_microbatches=SEQUENCES // (size * axes.get("dp", 1)),
                sequence_parallel=split,
            ),
            {first: inside, second: shared(between, 2)},
        )
    return cases
