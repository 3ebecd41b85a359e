"""The learning rate of a step: linear warmup, then half a cosine."""

import math


def learning_rate(
    step: int,
    peak: float,
    warmup: int,
    steps: int,
    final_fraction: float = 0.1,
) -> float:
    """Return the learning rate of 0-based `step`.

    It rises linearly over the first `warmup` steps and reaches `peak` at
    the last of them, falls along half a cosine until `steps`, and stays at
    `final_fraction * peak` afterwards (Radford et al. 2018, "Improving
    Language Understanding by Generative Pre-Training", section 4.1; Brown
    et al. 2020, arXiv:2005.14165, appendix B, for the final tenth).
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return peak * (final_fraction + (1 - final_fraction) * cosine)
