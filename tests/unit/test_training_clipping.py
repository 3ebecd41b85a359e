"""Clipping folded into AdamW against clip_grad_norm_ and a plain step."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from workshop.layout import Layout
from workshop.parallel.placement import Placement
from workshop.training.clipping import (
    clipped_step,
    global_norm,
    local_norm,
)
from workshop.training.optimizer import make_optimizer

SIZE = 24


def model(dtype):
    torch.manual_seed(0)
    built = nn.Sequential(
        nn.Linear(SIZE, SIZE), nn.LayerNorm(SIZE), nn.Linear(SIZE, 1)
    )
    return built.to(dtype)


def backward(module, seed):
    torch.manual_seed(seed)
    dtype = next(module.parameters()).dtype
    module.zero_grad()
    module(torch.randn(8, SIZE, dtype=dtype)).square().mean().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("limit", [0.05, 1e6])
def test_it_equals_clipping_first(dtype, limit):
    folded = model(dtype)
    plain = copy.deepcopy(folded)
    ours, theirs = make_optimizer(folded, 0.1), make_optimizer(plain, 0.1)
    clipped = []
    for seed in range(4):
        backward(folded, seed)
        backward(plain, seed)
        norm = local_norm(folded.parameters())
        before = nn.utils.clip_grad_norm_(plain.parameters(), limit)
        torch.testing.assert_close(norm, before)
        clipped.append(bool(norm > limit))
        clipped_step(ours, norm, limit)
        theirs.step()
    assert all(clipped) == (limit < 1)
    tolerance = {"rtol": 1e-5, "atol": 1e-7}
    for a, b in zip(folded.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, **tolerance)
        torch.testing.assert_close(a.grad, b.grad, **tolerance)
    assert not hasattr(ours, "grad_scale")


def test_a_limit_of_zero_is_no_clipping():
    ours, theirs = model(torch.float64), model(torch.float64)
    for module in (ours, theirs):
        backward(module, 1)
        module[0].weight.grad *= 1e3
    clipped_step(make_optimizer(ours, 0.1), local_norm(ours.parameters()), 0)
    make_optimizer(theirs, 0.1).step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_norm_leaves_out_what_has_no_gradient():
    module = model(torch.float32)
    backward(module, 1)
    module[1].bias.grad = None
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    expected = torch.cat([g.flatten() for g in grads]).norm()
    torch.testing.assert_close(local_norm(module.parameters()), expected)


def test_a_rank_without_gradients_adds_nothing_to_the_norm():
    alone = SimpleNamespace(layout=Layout(), at=Layout().coordinate(0))
    parameters = dict(model(torch.float32).named_parameters())
    placement = {name: Placement() for name in parameters}
    assert global_norm(parameters, placement, alone).item() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_norm_of_16_bits_is_of_32(dtype):
    """Not rounded to 16 bits: 1000.5 has no such float."""
    parameter = nn.Parameter(torch.zeros(4, dtype=dtype))
    parameter.grad = torch.full((4,), 500.25, dtype=dtype)
    exact = parameter.grad.double().norm().item()
    norm = local_norm([parameter, parameter])
    assert norm.dtype == torch.float32
    assert norm.item() == pytest.approx(2**0.5 * exact, rel=1e-6)
    # Squares beyond float16's range are none of ours.
    parameter.grad = torch.full((4,), 6e4, dtype=dtype)
    exact = parameter.grad.double().norm().item()
    assert local_norm([parameter]).item() == pytest.approx(exact, rel=1e-6)


def test_an_optimizer_that_would_ignore_the_scale_is_refused():
    module = model(torch.float32)
    backward(module, 1)
    optimizer = torch.optim.AdamW(module.parameters(), fused=False)
    with pytest.raises(ValueError, match="fused=True"):
        clipped_step(optimizer, local_norm(module.parameters()), 1.0)


def test_matrices_decay_and_vectors_do_not():
    decaying, rest = make_optimizer(model(torch.float32), 0.1).param_groups
    assert {p.dim() for p in decaying["params"]} == {2}
    assert {p.dim() for p in rest["params"]} == {1}
    assert decaying["weight_decay"] > 0 == rest["weight_decay"]
