"""Operations and days by Narayanan et al. 2021, counted and published."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop
from torch.utils.flop_counter import FlopCounterMode

from workshop.estimate.narayanan import (
    narayanan_flops_per_step,
    training_days,
)
from workshop.estimate.parameters import narayanan_parameters
from workshop.models.gpt import GPT, GPTConfig


@pytest.mark.parametrize("recompute", [True, False])
def test_the_operations_of_a_step_equal_the_counted_ones(recompute):
    config = GPTConfig(3, 48, 3, 24, 101)
    model = GPT(config)
    tokens = torch.randint(0, config.vocabulary, (5, config.sequence))

    def loss():
        x = model.embedding(tokens)
        for block in model.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return model.head(x, model.embedding.token.weight, tokens)

    # The counter has no formula for the CPU's fused attention, and torch
    # would leave out a layer's last product, which nothing needs again.
    with (
        sdpa_kernel(SDPBackend.MATH),
        set_checkpoint_early_stop(False),
        FlopCounterMode(display=False) as counter,
    ):
        (loss() if recompute else model(tokens, tokens)).backward()
    assert counter.get_total_flops() == narayanan_flops_per_step(
        5, config.sequence, config.layers, config.hidden,
        config.vocabulary, recompute,
    )  # fmt: skip


def test_the_operations_equal_the_formula_of_the_paper():
    batch, s, layers, h, v = 1536, 2048, 80, 12288, 51200
    formula = (
        96 * batch * s * layers * h**2
        * (1 + s / (6 * h) + v / (16 * layers * h))
    )  # fmt: skip
    exact = narayanan_flops_per_step(batch, s, layers, h, v)
    assert exact == pytest.approx(formula, rel=1e-12)


def test_the_days_that_the_paper_prints():
    trillion = narayanan_parameters(128, 25600, 2048, 51200)
    assert round(training_days(175e9, 300e9, 1024, 140e12)) == 34
    assert round(training_days(trillion, 450e9, 3072, 163e12)) == 84


def test_without_recomputation_a_quarter_of_the_days_is_saved():
    whole = training_days(175e9, 300e9, 1024, 140e12)
    less = training_days(175e9, 300e9, 1024, 140e12, recompute=False)
    assert less == pytest.approx(whole * 3 / 4, rel=1e-12)
