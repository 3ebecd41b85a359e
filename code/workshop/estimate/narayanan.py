"""Operations of a step and days of training, by Narayanan et al. 2021.

"Efficient Large-Scale Language Model Training on GPU Clusters Using
Megatron-LM", arXiv 2104.04473, section 5.1 and its appendix.
Pure Python that also runs inside the published page: no torch, no imports.
Symbols: B global batch in sequences, s sequence length, L layers, h hidden
size, V vocabulary, P parameters, T tokens, n GPUs, X FLOP/s of one GPU.
"""

SECONDS_A_DAY = 86_400


def narayanan_flops_per_step(
    batch, sequence, layers, hidden, vocabulary, recompute=True
):
    """Return the operations of one step over a global batch, exactly.

        F = 96 B s L h^2 (1 + s / (6 h) + V / (16 L h)),

    multiplied out so that it stays in integers.  A layer's products cost
    24 B s h^2 + 4 B s^2 h forward and twice that backward; with `recompute`
    (full activation recomputation) its forward runs once more, so 4 times
    in all, else 3.  The logits cost 6 B s h V either way.
    """
    passes = 4 if recompute else 3
    tokens = batch * sequence
    layer = 24 * tokens * hidden * hidden + 4 * tokens * sequence * hidden
    return passes * layers * layer + 6 * tokens * hidden * vocabulary


def training_days(parameters, tokens, gpus, flops_per_gpu, recompute=True):
    """Return the days that n GPUs need for T tokens at X FLOP/s each.

        8 T P / (n X) seconds, 6 T P / (n X) without `recompute`

    Each parameter costs a multiply-add forward, one more when the forward
    is repeated, and two backward; attention and logits are left out.
    """
    per_token = (8 if recompute else 6) * parameters
    seconds = tokens * per_token / (gpus * flops_per_gpu)
    return seconds / SECONDS_A_DAY
