"""Where to cut a model into the chunks of a pipeline.

Pure Python that also runs inside the published page.  A model is a dict with
`layers` L, `hidden` h, `heads` a, `sequence` s, `vocabulary` V (padded) and
`bias`; `dataclasses.asdict` of a GPTConfig is one.
"""


def layer_flops(model):
    """Return the forward operations of one layer for one token."""
    hidden = model["hidden"]
    return 24 * hidden * hidden + 4 * hidden * model["sequence"]


def head_flops(model):
    """Return the forward operations of the logits for one token."""
    return 2 * model["hidden"] * model["vocabulary"]


def balanced_cut(model, chunks, ranks=None):
    """Return the layers of each chunk so that the slowest rank is fastest.

    Chunk k lies on rank k mod `ranks` (None: a rank each).  The head counts
    as many layers as its operations do, the embedding as none, for it looks
    up rows.  GPT 1.3B in two: 13 and 11.

    Raises ValueError for fewer layers than chunks.
    """
    if model["layers"] < chunks:
        raise ValueError(
            "there are fewer layers than chunks to cut them into"
        )
    costs = 0, layer_flops(model), head_flops(model)
    return shares_of(model["layers"], chunks, costs, ranks)


def shares_of(layers, chunks, costs, ranks=None):
    """Return the layers of each chunk so that the slowest rank is fastest.

    `costs` are those of embedding, layer and head, in any unit they share;
    the embedding is in the first chunk, the head in the last.  Every chunk
    has one layer or more.  All layers cost the same, so giving them out one
    by one, each to the rank with the least work so far, leads to the
    smallest maximum; within a rank its smallest chunk grows.
    """
    embedding, layer, head = costs
    ranks = ranks or chunks
    shares = [1] * chunks
    extra = [0] * chunks
    extra[0] += embedding
    extra[-1] += head

    def cost(chunk):
        return shares[chunk] * layer + extra[chunk]

    def cost_of_rank(rank):
        return sum(cost(chunk) for chunk in range(rank, chunks, ranks))

    for _ in range(layers - chunks):
        rank = min(range(ranks), key=cost_of_rank)
        shares[min(range(rank, chunks, ranks), key=cost)] += 1
    return shares
