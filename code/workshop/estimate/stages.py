"""What part of a model a rank of a layout holds.

Pure Python that also runs inside the published page: no torch, no imports
from outside this package.  A model is a dict as in `workshop.estimate.cut`,
a layout a `workshop.layout.Layout`.  Symbols: t, p, d are the tensor,
pipeline and data parallel sizes, b the micro-batch, m the micro-batches of a
step, v the chunks of a rank.
"""

from workshop.estimate.cut import balanced_cut
from workshop.estimate.parameters import layer_norm


def tokens_per_step(model, layout):
    """Return the tokens of a step over all ranks."""
    return layout.sequences * model["sequence"]


def chunks_of(model, layout, stage):
    """Return the chunks of a pipeline rank: (layers, first, last) each.

    Chunk k of the model lies on rank k mod p (Narayanan et al. 2021,
    section 2.2.2): `first` has the embedding, `last` the head.

    Raises:
        ValueError: the layout's cut has more or fewer layers.
    """
    total = layout.chunks
    cut = layout.cut or balanced_cut(model, total, layout.pp)
    if sum(cut) != model["layers"]:
        raise ValueError(
            "the chunks of a cut must have all layers of the model together"
        )
    return [
        (cut[k], k == 0, k == total - 1)
        for k in range(stage, total, layout.pp)
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
    h, t = model["hidden"], layout.tp
    bias = 1 if model.get("bias", True) else 0
    norm = layer_norm(h, bias == 1)
    rows = -(-model["vocabulary"] // t)
    parameters = {"sharded": 0, "replicated": 0, "tied_copy": 0}
    for layers, first, last in chunks_of(model, layout, stage):
        columns = (3 * h * h + 3 * h * bias) + (4 * h * h + 4 * h * bias)
        parameters["sharded"] += layers * (columns + h * h + 4 * h * h) // t
        parameters["replicated"] += layers * (2 * h * bias + 2 * norm)
        if first:
            parameters["sharded"] += rows * h
            parameters["replicated"] += model["sequence"] * h
        if last:
            parameters["replicated"] += norm
            if not model.get("tied", True):
                parameters["sharded"] += rows * h
            elif not first:
                parameters["tied_copy"] += rows * h
    parameters["total"] = sum(parameters.values())
    return parameters
