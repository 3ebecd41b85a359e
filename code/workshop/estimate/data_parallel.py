"""The messages of data parallelism, one by one, and how many backward hides.

Pure Python that also runs inside the published page.  Symbols as in
`workshop.estimate.stages`.
"""

from workshop.estimate.communication import seconds
from workshop.estimate.cut import head_flops, layer_flops
from workshop.estimate.stages import chunks_of

MIB = 2**20


def layer_tensors(model, layout):
    """Return the elements of each parameter of one layer on a rank.

    In the order of `Block`'s parameters: LayerNorm, QKV, output, LayerNorm,
    up, down, each a weight and, with biases, a bias.
    """
    h, t = model["hidden"], layout.tp
    weights = [
        h,
        3 * h * h // t,
        h * h // t,
        h,
        4 * h * h // t,
        4 * h * h // t,
    ]
    biases = [h, 3 * h // t, h, h, 4 * h // t, h]
    if not model.get("bias", True):
        return weights
    return [size for pair in zip(weights, biases) for size in pair]


def gradients(model, layout, stage=0):
    """Return (elements, share) of a rank's gradients as backward gives them.

    `share` is the part of the rank's backward that has passed when the
    gradient is complete: a block's when its whole backward has run, the
    token embedding's, which is tied to the head, at the very end of the
    first stage, and at once on a last stage that holds a copy.
    """
    h = model["hidden"]
    rows = -(-model["vocabulary"] // layout.tp)
    layer, head = layer_flops(model), head_flops(model)
    chunks = chunks_of(model, layout, stage)
    total = sum(n * layer + (head if last else 0) for n, _, last in chunks)
    arrivals, done = [], 0
    for layers, first, last in reversed(chunks):
        if last:
            done += head
            norms = [h, h] if model.get("bias", True) else [h]
            arrivals += [(size, done / total) for size in norms]
            if not (first and model.get("tied", True)):
                arrivals.append((rows * h, done / total))
        for _ in range(layers):
            done += layer
            arrivals += [
                (size, done / total)
                for size in reversed(layer_tensors(model, layout))
            ]
        if first:
            arrivals.append((model["sequence"] * h, 1.0))
            arrivals.append((rows * h, 1.0))
    return arrivals


def in_buckets(arrivals, bucket_mib=100.0, element_bytes=2):
    """Return (elements, share) of each bucket, as `make_buckets` groups.

    A bucket is full before it exceeds `bucket_mib` MiB, and complete with
    its last gradient.
    """
    buckets, elements, ready = [], 0, 0.0
    for size, share in arrivals:
        more = (elements + size) * element_bytes / MIB
        if elements and more > bucket_mib:
            buckets.append((elements, ready))
            elements = 0
        elements += size
        ready = share
    buckets.append((elements, ready))
    return buckets


def timeline(messages, backward, link, ranks, element_bytes=2):
    """Return (begin, end) of each message's all-reduce in seconds.

    `backward` seconds begin at 0; a message starts when it is complete and
    the one before it has arrived.
    """
    spans, free = [], 0.0
    for elements, share in messages:
        begin = max(free, share * backward)
        size = elements * element_bytes
        free = begin + seconds(link, "all_reduce", size, ranks)
        spans.append((begin, free))
    return spans


def exposed(
    model,
    layout,
    backward,
    link,
    stage=0,
    overlap=True,
    bucket_mib=100.0,
    element_bytes=2,
):
    """Return the seconds of the averaging that nothing hides, and all of it.

    `backward` is the seconds of the last micro-batch's backward on this
    rank.  Without `overlap` each gradient is a message of its own, after
    backward.
    """
    ranks = layout.dp
    if ranks == 1:
        return 0.0, 0.0
    arrivals = gradients(model, layout, stage)
    if not overlap:
        spans = timeline(arrivals, 0.0, link, ranks, element_bytes)
        return spans[-1][1], spans[-1][1]
    buckets = in_buckets(arrivals, bucket_mib, element_bytes)
    spans = timeline(buckets, backward, link, ranks, element_bytes)
    busy = sum(end - begin for begin, end in spans)
    return max(0.0, spans[-1][1] - backward), busy
