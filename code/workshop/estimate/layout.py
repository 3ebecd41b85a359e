"""How a model is spread over ranks, and what part of it a rank holds.

Pure Python that also runs inside the published page: no torch, no imports
from outside this package.  A model and a layout are plain dicts, so that
they travel as JSON.  A model has `layers` L, `hidden` h, `heads` a,
`sequence` s, `vocabulary` V (padded) and `bias`; `dataclasses.asdict` of a
GPTConfig is one.  Symbols: t, p, d are the tensor, pipeline and data
parallel sizes, b the micro-batch, m the micro-batches of a step.
"""

from workshop.estimate.parameters import layer_norm


def layout(
    dp=1,
    tp=1,
    pp=1,
    micro_batch=1,
    num_microbatches=1,
    schedule="1f1b",
    virtual_stages=1,
    sequence_parallel=False,
    cut=None,
):
    """Return a layout as a dict of its arguments.

    `schedule` is gpipe, 1f1b or interleaved; `virtual_stages` v is the
    number of chunks of a rank, above 1 for interleaved alone.  `cut` lists
    the layers of each of the p v chunks in the order of the model; None
    balances them (`balanced_cut`).

    Raises ValueError for sizes that make no layout.
    """
    sizes = (dp, tp, pp, micro_batch, num_microbatches, virtual_stages)
    if min(sizes) < 1:
        raise ValueError("every size of a layout is 1 or more")
    if schedule not in ("gpipe", "1f1b", "interleaved"):
        raise ValueError("the schedule is gpipe, 1f1b or interleaved")
    if virtual_stages > 1 and schedule != "interleaved":
        raise ValueError(
            "several chunks a rank need the interleaved schedule"
        )
    if virtual_stages > 1 and (pp < 2 or num_microbatches % pp):
        raise ValueError(
            "the interleaved schedule needs two stages or more, and "
            "micro-batches in multiples of the stages"
        )
    return {
        "dp": dp,
        "tp": tp,
        "pp": pp,
        "micro_batch": micro_batch,
        "num_microbatches": num_microbatches,
        "schedule": schedule,
        "virtual_stages": virtual_stages,
        "sequence_parallel": sequence_parallel and tp > 1,
        "cut": cut,
    }


def world_size(layout):
    """Return the ranks of a layout."""
    return layout["dp"] * layout["tp"] * layout["pp"]


def tokens_per_step(model, layout):
    """Return the tokens of a step over all ranks."""
    sequences = layout["dp"] * layout["micro_batch"]
    return sequences * layout["num_microbatches"] * model["sequence"]


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
    found = [1] * chunks
    extra = [0] * chunks
    extra[0] += embedding
    extra[-1] += head

    def cost(chunk):
        return found[chunk] * layer + extra[chunk]

    def cost_of_rank(rank):
        return sum(cost(chunk) for chunk in range(rank, chunks, ranks))

    for _ in range(layers - chunks):
        rank = min(range(ranks), key=cost_of_rank)
        found[min(range(rank, chunks, ranks), key=cost)] += 1
    return found


def chunks_of(model, layout, stage):
    """Return the chunks of a pipeline rank: (layers, first, last) each.

    Chunk k of the model lies on rank k mod p (Narayanan et al. 2021,
    section 2.2): `first` has the embedding, `last` the head.
    """
    total = layout["pp"] * layout["virtual_stages"]
    cut = layout["cut"] or balanced_cut(model, total, layout["pp"])
    if len(cut) != total or sum(cut) != model["layers"]:
        raise ValueError(
            "the cut must name the layers of every chunk, all layers in all"
        )
    return [
        (cut[k], k == 0, k == total - 1)
        for k in range(stage, total, layout["pp"])
    ]


def rank_parameters(model, layout, stage=0):
    """Return the parameters that a rank of a pipeline stage holds, exactly.

    `sharded` are split over the tensor parallel ranks (the size of one
    rank's part), `replicated` are whole on each of them, and `tied_copy`
    is the last stage's copy of the token embedding, which another stage
    holds as well: it takes memory, but the model has it once.  Matrices
    split by columns take their biases along; a bias that is added after
    the sum over the ranks, the LayerNorms and the positions are whole.
    """
    h, t = model["hidden"], layout["tp"]
    bias = 1 if model.get("bias", True) else 0
    norm = layer_norm(h, bias == 1)
    rows = -(-model["vocabulary"] // t)
    found = {"sharded": 0, "replicated": 0, "tied_copy": 0}
    for layers, first, last in chunks_of(model, layout, stage):
        columns = (3 * h * h + 3 * h * bias) + (4 * h * h + 4 * h * bias)
        found["sharded"] += layers * (columns + h * h + 4 * h * h) // t
        found["replicated"] += layers * (2 * h * bias + 2 * norm)
        if first:
            found["sharded"] += rows * h
            found["replicated"] += model["sequence"] * h
        if last:
            found["replicated"] += norm
            if not first:
                found["tied_copy"] += rows * h
    found["total"] = sum(found.values())
    return found


def from_name(name, layers=None, **rest):
    """Return the layout that a short name means: dp2, tp2sp, pp2cut12...

    dp, tp and pp with their sizes in any order, `sp` for sequence
    parallelism, `v` with the chunks of a rank in an interleaved schedule,
    and `cut` with the layers of the first stage, of `layers` in all; the
    other stages share the rest.  Hyphens may stand between them.  `rest`
    are other arguments of `layout`.

    Raises ValueError for a name that means none.
    """
    sizes, text = {}, name
    while text or not sizes:
        for key in ("dp", "tp", "pp", "sp", "cut", "v"):
            if text.startswith(key) and key not in sizes:
                break
        else:
            raise ValueError(
                "a layout is named by dp, tp, pp and their sizes, sp, v and "
                "cut, as in dp2, tp2-sp or pp2-v2: " + repr(name) + " is not"
            )
        text = text[len(key) :]
        length = 0
        while length < len(text) and text[length] in "0123456789":
            length += 1
        if (key == "sp") == (length > 0):
            raise ValueError(
                "dp, tp, pp, v and cut need a number and sp has none: "
                + repr(name)
            )
        sizes[key] = int(text[:length]) if length else True
        text = text[length:]
        if text.startswith("-") and len(text) > 1:
            text = text[1:]
    first = sizes.pop("cut", None)
    if sizes.get("v", 1) > 1:
        rest["schedule"] = "interleaved"
    rest["virtual_stages"] = sizes.pop("v", rest.get("virtual_stages", 1))
    sequence_parallel = sizes.pop("sp", False)
    found = layout(sequence_parallel=sequence_parallel, **sizes, **rest)
    if first is not None:
        others = found["pp"] - 1
        if not others or layers is None or first >= layers:
            raise ValueError(
                "cut is for two stages or more, and leaves each some layers"
            )
        share, more = divmod(layers - first, others)
        cut = [share + (1 if i < more else 0) for i in range(others)]
        found["cut"] = [first] + cut
    return found
