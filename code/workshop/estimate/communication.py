"""Which messages a layout sends in a step, and how long a message takes.

Pure Python that also runs inside the published page.  The traffic is that
of one rank in one step, as `workshop.collectives` counts it: elements and
bytes of a message, and the bytes that a rank sends when n ranks stand in a
ring (Patarasuk and Yuan 2009): 2(n-1)/n M for an all-reduce, (n-1)/n M for
a reduce-scatter or an all-gather, M for a message to a neighbour.  A GB is
1e9 bytes.  Symbols as in `workshop.estimate.stages`.
"""

from workshop.estimate.stages import chunks_of, rank_parameters

PASSES = {"all_reduce": 2, "reduce_scatter": 1, "all_gather": 1}


def link(alpha_us, beta_gb_s, points=None):
    """Return a link: a message of M sent bytes takes alpha + M / beta.

    `alpha_us` is what any message costs, in microseconds, and `beta_gb_s`
    the bandwidth of a very long one, in GB/s of bytes that a rank sends
    (bus bandwidth).  `points`, pairs of sent bytes and microseconds, are a
    measured curve, which then stands in for the line.
    """
    costs = {"alpha_us": alpha_us, "beta_gb_s": beta_gb_s}
    if points:
        costs["points"] = sorted(points)
    return costs


def network(gbit_s, alpha_us=30.0):
    """Return the link of a network card of `gbit_s` Gb/s, at its line rate.

    An upper bound: headers and software take their share.
    """
    return link(alpha_us, gbit_s / 8)


def sent_bytes(operation, message_bytes, ranks):
    """Return the bytes that one of `ranks` sends; M of a `send`."""
    if operation == "send":
        return message_bytes
    return PASSES[operation] * (ranks - 1) * message_bytes / ranks


def seconds(link, operation, message_bytes, ranks=2):
    """Return the seconds of one message of `message_bytes` on n ranks.

    `operation` is all_reduce, reduce_scatter, all_gather or send; the
    message is the whole one, as the table in `workshop.collectives` says.
    With one rank there is nothing to send.
    """
    if ranks == 1:
        return 0.0
    sent = sent_bytes(operation, message_bytes, ranks)
    if "points" in link:
        return _on_curve(link["points"], sent) / 1e6
    return link["alpha_us"] / 1e6 + sent / (link["beta_gb_s"] * 1e9)


def _on_curve(points, sent):
    """Return the microseconds between the neighbours of `sent` bytes.

    Below the shortest message its time, beyond the longest its bandwidth.
    """
    if sent <= points[0][0]:
        return points[0][1]
    for i in range(1, len(points)):
        size, time = points[i - 1]
        more, later = points[i]
        if sent <= more:
            return time + (later - time) * (sent - size) / (more - size)
    size, time = points[-1]
    return time * sent / size


def entry(
    axis, operation, elements, element_bytes, ranks, times=1, behind=False
):
    """Return one kind of message: `times` of it, on `ranks` ranks.

    `behind` says that a matrix product of backward may run beside it.
    """
    return {
        "axis": axis,
        "operation": operation,
        "elements": elements,
        "element_bytes": element_bytes,
        "ranks": ranks,
        "times": times,
        "behind": behind,
    }


def data_parallel(model, layout, stage=0, element_bytes=2):
    """Return the all-reduces of the gradients of one rank in a step.

    One entry for all of them together: its number of messages depends on
    the buckets, its elements do not.
    """
    if layout.dp == 1:
        return []
    held = rank_parameters(model, layout, stage)["total"]
    return [entry("dp", "all_reduce", held, element_bytes, layout.dp)]


def tensor_parallel(model, layout, stage=0, element_bytes=2):
    """Return the messages between the tensor parallel ranks in a step.

    Shoeybi et al. 2019 (arXiv 1909.08053), section 3: each layer has two
    all-reduces of b s h forward and two backward; outside the layers one
    follows the embedding, one the head's backward, and three of b s,
    in float32 at least, sum up the cross-entropy.

    Sequence parallel, Korthikanti et al. 2022 (arXiv 2205.05198), section
    4.2: each all-reduce becomes a reduce-scatter and an all-gather, and
    backward gathers the input of each split product once more, since only
    its shard was kept.  The gradients of what is replicated (LayerNorms,
    biases, positions) are summed at the end, in one message.
    """
    t = layout.tp
    if t == 1:
        return []
    b, s, h = layout.micro_batch, model["sequence"], model["hidden"]
    m = layout.num_microbatches
    layers = first = last = 0
    for count, is_first, is_last in chunks_of(model, layout, stage):
        layers += count
        first += is_first
        last += is_last

    def messages(operation, times, behind=False):
        size = b * s * h
        return entry(
            "tp", operation, size, element_bytes, t, m * times, behind
        )

    if layout.sequence_parallel:
        traffic = [
            messages("reduce_scatter", 2 * layers + first),
            messages("reduce_scatter", 2 * layers + last, True),
            messages("all_gather", 4 * layers + first + last),
            messages("all_gather", 2 * layers + last, True),
        ]
        replicated = rank_parameters(model, layout, stage)["replicated"]
        traffic.append(
            entry("tp", "all_reduce", replicated, element_bytes, t)
        )
    else:
        traffic = [
            messages("all_reduce", 2 * layers + first),
            messages("all_reduce", 2 * layers + last, True),
        ]
    if last:
        wide = max(element_bytes, 4)
        traffic.append(entry("tp", "all_reduce", b * s, wide, t, 3 * m))
    return [one for one in traffic if one["times"]]


def pipeline_parallel(model, layout, stage=0, element_bytes=2):
    """Return what a stage sends to its neighbours in a step.

    Activations b s h forward for each of its chunks but the model's last,
    gradients of the same size backward for each but the first; a t-th of
    them under sequence parallelism.  A tied embedding's gradient is
    summed over the first and the last stage.
    """
    p = layout.pp
    if p == 1:
        return []
    b, s, h = layout.micro_batch, model["sequence"], model["hidden"]
    share = layout.tp if layout.sequence_parallel else 1
    chunks = chunks_of(model, layout, stage)
    hand_overs = sum(
        (0 if last else 1) + (0 if first else 1) for _, first, last in chunks
    )
    times = layout.num_microbatches * hand_overs
    traffic = [
        entry("pp", "send", b * s * h // share, element_bytes, p, times)
    ]
    if stage in (0, p - 1) and model.get("tied", True):
        rows = -(-model["vocabulary"] // layout.tp)
        traffic.append(entry("pp", "all_reduce", rows * h, element_bytes, 2))
    return traffic


def traffic(model, layout, stage=0, element_bytes=2):
    """Return all messages of a rank of `stage` in one step."""
    return (
        data_parallel(model, layout, stage, element_bytes)
        + tensor_parallel(model, layout, stage, element_bytes)
        + pipeline_parallel(model, layout, stage, element_bytes)
    )
