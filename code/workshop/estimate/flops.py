"""How many floating-point operations a token costs in training.

Pure Python that also runs inside the published page: no torch, no imports.
Symbols: N parameters, L layers, h hidden size, s sequence length,
V vocabulary.  A multiply and an add count as two operations.
"""


def flops_per_token(parameters, layers, hidden, sequence):
    """Return the operations of forward and backward for one token.

        6 N + 12 L h s

    Every parameter takes part in one multiply-add forward and in two
    backward: 6 N.  The scores of a token against s others and the weighted
    sum of s values are 4 h s forward, 12 h s with the backward, in each
    layer.  Neither the causal mask nor what flash attention computes twice
    changes the count.  This is the convention of the
    PaLM paper (Chowdhery et al. 2022, arXiv 2204.02311, appendix B), with
    the embedding counted once, because the same matrix computes the logits.

    Parameters that no matrix product uses (biases, LayerNorms, positions)
    are counted although they cost next to nothing: `overcounted_per_token`.
    """
    return 6 * parameters + 12 * layers * hidden * sequence


def matmul_flops_per_token(layers, hidden, sequence, vocabulary):
    """Return the operations of the matrix products alone, exactly.

    Forward: 24 h^2 a layer for the QKV, output and MLP projections, 4 h s
    for the attention, and 2 V h for the logits; three times that with the
    backward.
    """
    forward = (
        layers * (24 * hidden * hidden + 4 * hidden * sequence)
        + 2 * vocabulary * hidden
    )
    return 3 * forward
