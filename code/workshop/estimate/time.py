"""How long a step of a layout takes: compute, communication, bubble.

Pure Python that also runs inside the published page.  Times are in
seconds; symbols as in `workshop.estimate.stages`.  The compute is measured
(of one device, or of one rank of the layout alone) or comes from operations
and achieved FLOP/s; the communication from a link's alpha and beta or its
measured curve (`workshop.estimate.communication.link`).
"""

from workshop.estimate import data_parallel
from workshop.estimate.communication import (
    pipeline_parallel,
    seconds,
    tensor_parallel,
)
from workshop.estimate.cut import head_flops, layer_flops
from workshop.estimate.pipeline import pipeline_seconds
from workshop.estimate.stages import (
    chunks_of,
    rank_parameters,
    tokens_per_step,
)

# Of the three shares of a step's operations backward has two.
FORWARD = 1 / 3
# Bytes that AdamW with masters moves for a parameter: it reads the gradient
# twice (the norm and the update), reads and writes master and two moments
# and writes the weight.
OPTIMIZER_BYTES = 2 * 2 + 2 * 12 + 2


def optimizer_seconds(parameters, copy_gb_s):
    """Return the seconds of the update at a memory rate in GB/s."""
    return parameters * OPTIMIZER_BYTES / (copy_gb_s * 1e9)


def spread(model, layout, micro_batch_seconds):
    """Return each stage's forward and backward seconds of a micro-batch.

    `micro_batch_seconds` is what forward and backward of one micro-batch
    take on one device that holds the whole model.  The stages share it by
    the operations of their layers and the head, tensor parallel ranks
    equally: an ideal, for smaller products run at a lower rate.
    """
    layer, head = layer_flops(model), head_flops(model)
    whole = model["layers"] * layer + head
    times = []
    for stage in range(layout.pp):
        work = sum(
            layers * layer + (head if last else 0)
            for layers, _, last in chunks_of(model, layout, stage)
        )
        total = micro_batch_seconds * work / whole / layout.tp
        times.append((total * FORWARD, total * (1 - FORWARD)))
    return times


def tensor_seconds(model, layout, stage, backward, link, overlap=True):
    """Return (exposed, all) seconds of a micro-batch's tensor parallelism.

    A message that may run beside a product of backward (`behind` in the
    traffic) is exposed by what exceeds that product.  The products of a
    layer's two split inputs are 14 h^2 of the 48 h^2 + 8 h s operations of
    its backward for the weights, and as many for the inputs.
    """
    h, s = model["hidden"], model["sequence"]
    head = head_flops(model)
    layer = layer_flops(model)
    chunks = chunks_of(model, layout, stage)
    work = sum(n * layer + (head if last else 0) for n, _, last in chunks)
    product = backward * layer / work * 7 * h * h / (48 * h * h + 8 * h * s)
    m = layout.num_microbatches
    hidden = total = 0.0
    for one in tensor_parallel(model, layout, stage):
        size = one["elements"] * one["element_bytes"]
        each = seconds(link, one["operation"], size, one["ranks"])
        total += each * one["times"] / m
        if overlap and one["behind"]:
            hidden += min(each, product) * one["times"] / m
    return total - hidden, total


def step_time(
    model,
    layout,
    stages,
    links,
    optimizer=0.0,
    overlap=True,
    bucket_mib=100.0,
    slowdown=1.0,
):
    """Return the parts of a step's seconds, and tokens a second.

    Args:
        stages: for each pipeline stage (forward, backward) seconds of one
            micro-batch through all its chunks, without communication.
        links: a link for each axis in use: dp, tp, pp.
        optimizer: seconds of the update.
        overlap: whether messages run beside compute where they can.
        slowdown: how much longer compute takes while a message runs beside
            it; 1.0 is not at all.

    The parts add up to `total`: `compute` is the mean rank's, `imbalance`
    what the slowest stage does beyond it, `bubble` the pipeline's idle
    time, `tp`, `pp` and `dp` the exposed communication of each axis,
    `contention` what communication costs the compute beside it.
    `hidden_dp` (not in the sum) is what backward covers of dp.
    """
    m = layout.num_microbatches
    exposed_tp, works = [], []
    for stage, (forward, backward) in enumerate(stages):
        part, _ = tensor_seconds(
            model, layout, stage, backward, links.get("tp"), overlap
        )
        exposed_tp.append(part)
        works.append(forward + backward + part)
    hand_over = 0.0
    tied = 0.0
    for one in pipeline_parallel(model, layout, 0):
        size = one["elements"] * one["element_bytes"]
        each = seconds(links["pp"], one["operation"], size, one["ranks"])
        if one["operation"] == "send":
            hand_over = each
        else:
            tied = each
    run = pipeline_seconds(
        works, m, layout.virtual_stages, hand_over, layout.schedule
    )
    mean_tp = sum(exposed_tp) / len(exposed_tp)
    # The stage whose gradients arrive last holds up the step.
    averages = [
        data_parallel.exposed(
            model,
            layout,
            backward,
            links.get("dp"),
            stage,
            overlap,
            bucket_mib,
        )
        for stage, (_, backward) in enumerate(stages)
    ]
    late, busy = max(averages)
    hidden = busy - late
    parts = {
        "compute": run["compute"] - m * mean_tp,
        "imbalance": run["imbalance"],
        "bubble": run["bubble"],
        "tp": m * mean_tp,
        "pp": run["hand_over"] + tied,
        "dp": late,
        "contention": hidden * (1 - 1 / slowdown),
        "optimizer": optimizer,
    }
    parts["total"] = sum(parts.values())
    parts["hidden_dp"] = hidden
    parts["tokens_per_s"] = tokens_per_step(model, layout) / parts["total"]
    return parts


def update_seconds(model, layout, copy_gb_s):
    """Return the longest update of any rank at a memory rate in GB/s."""
    return max(
        optimizer_seconds(
            rank_parameters(model, layout, stage)["total"], copy_gb_s
        )
        for stage in range(layout.pp)
    )
