"""How many parameters a GPT has, exactly and by the papers' formula.

Pure Python that also runs inside the published page: no torch, no imports.
Symbols: L layers, h hidden size, s sequence length, V vocabulary.
"""


def gpt_parameters(
    layers, hidden, sequence, vocabulary, bias=True, tied=True
):
    """Return the exact number of parameters of `workshop.models.gpt.GPT`.

    A tied embedding is the output projection too, and counted once:

        V h + s h + L (12 h^2 + 13 h) + 2 h

    with `vocabulary` the padded one.  Without biases (`bias=False`) a layer
    keeps only the weights of its two LayerNorms, 2 h, and the final
    LayerNorm keeps h.  A head with a weight of its own (`tied=False`) has
    V h more.
    """
    weights = 4 * hidden * hidden + 8 * hidden * hidden
    if bias:
        attention = 3 * hidden + hidden
        mlp = 4 * hidden + hidden
        vectors = attention + mlp + 2 * layer_norm(hidden, bias)
    else:
        vectors = 2 * layer_norm(hidden, bias)
    return (
        (vocabulary * (1 if tied else 2) + sequence) * hidden
        + layers * (weights + vectors)
        + layer_norm(hidden, bias)
    )


def layer_norm(hidden, bias=True):
    """Return the parameters of one LayerNorm: a scale, and a shift."""
    return 2 * hidden if bias else hidden


def narayanan_parameters(layers, hidden, sequence, vocabulary):
    """Return the parameters by Narayanan et al. 2021 (arXiv 2104.04473).

        P = 12 L h^2 (1 + 13 / (12 h) + (V + s) / (12 L h)),

    their equation for the size of a model, multiplied out so that it stays
    in integers.  It leaves out the final LayerNorm: 2 h fewer than
    `gpt_parameters`.
    """
    return (
        12 * layers * hidden * hidden
        + 13 * layers * hidden
        + (vocabulary + sequence) * hidden
    )
