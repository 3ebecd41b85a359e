"""Products in 8 bits: near the exact ones whatever the size of the numbers."""

import pytest
import torch
from torch import Tensor, nn

from workshop.errors import UserError
from workshop.models.gpt import GPT, GPTConfig
from workshop.training.fp8 import (
    BACKWARD,
    FORWARD,
    Linear,
    quantised,
    use_fp8,
)

CONFIG = GPTConfig(2, 32, 2, 16, 48)


def error(mine: Tensor, due: Tensor) -> float:
    return (
        (mine.double() - due.double()).norm() / due.double().norm()
    ).item()


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_a_layer_and_its_gradients_whatever_the_size(size: float) -> None:
    """Without scales 1e-4 would be nothing and 1e4 infinite."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 32).double()
    with torch.no_grad():
        layer.weight /= size
    x = (size * torch.randn(2, 16, 64, dtype=torch.double)).requires_grad_()
    pull = torch.randn(2, 16, 32, dtype=torch.double) * size
    (layer(x) * pull).sum().backward()
    wide = [layer(x).detach(), x.grad, layer.weight.grad, layer.bias.grad]
    narrow = Linear(64, 32).bfloat16()
    narrow.load_state_dict(layer.state_dict())
    x8 = x.detach().bfloat16().requires_grad_()
    y = narrow(x8)
    assert y.shape == (2, 16, 32) and y.dtype == torch.bfloat16
    (y * pull.bfloat16()).sum().backward()
    mine = [y.detach(), x8.grad, narrow.weight.grad, narrow.bias.grad]
    errors = [error(*pair) for pair in zip(mine, wide, strict=True)]
    # 3 digits of E4M3 in both factors, 2 of E5M2 in backward's.
    assert max(errors[:1]) < 0.05 and max(errors[1:3]) < 0.08
    assert errors[3] < 0.01


@pytest.mark.parametrize("dtype", [FORWARD, BACKWARD])
def test_the_largest_element_is_the_end_of_the_range(dtype) -> None:
    x = torch.tensor([[0.0, -3.0], [1.5, 0.2]])
    narrow, back = quantised(x, dtype)
    assert narrow.float().abs().max() == torch.finfo(dtype).max
    torch.testing.assert_close(narrow.float() * back, x, rtol=0.13, atol=0)
    nothing, back = quantised(torch.zeros(2, 2), dtype)
    assert not nothing.float().any() and torch.isfinite(back)


def test_small_gradients_beside_large_ones_are_kept() -> None:
    """E4M3 has no number 2^20 times smaller than its largest; E5M2 does."""
    layer = Linear(16, 16).bfloat16()
    with torch.no_grad():
        layer.weight.copy_(torch.eye(16))
    x = torch.zeros(16, 16, dtype=torch.bfloat16, requires_grad=True)
    pull = torch.full((16, 16), 2.0**-20, dtype=torch.bfloat16)
    pull[0, 0] = 1.0
    layer(x).backward(pull)
    assert x.grad.float().min() == pytest.approx(2.0**-20, rel=0.13)


def test_a_layer_keeps_one_byte_an_element() -> None:
    layer = Linear(64, 32).bfloat16()
    kept: list[Tensor] = []
    keep = torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t) or t, lambda t: t
    )
    x = torch.randn(16, 64, dtype=torch.bfloat16, requires_grad=True)
    with keep:
        layer(x)
    large = [t for t in kept if t.numel() > 1]
    assert sorted(t.numel() for t in large) == [16 * 64, 32 * 64]
    assert {t.dtype for t in large} == {FORWARD}


@pytest.mark.parametrize("compiled", [False, True])
def test_a_model_learns_as_in_bfloat16(compiled: bool) -> None:
    torch.manual_seed(0)
    text = torch.randint(CONFIG.vocabulary, (4, CONFIG.sequence + 1))

    def losses(narrow: bool) -> list[float]:
        torch.manual_seed(1)
        model = GPT(CONFIG).bfloat16()
        if narrow:
            use_fp8(model, 16)
        if compiled:
            torch.compiler.reset()
            for block in model.blocks:
                block.compile(fullgraph=True, backend="aot_eager")
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        seen = []
        for _ in range(8):
            optimizer.zero_grad()
            loss = model(text[:, :-1], text[:, 1:])
            loss.backward()
            optimizer.step()
            seen.append(loss.item())
        return seen

    # All blocks share a graph, or 24 of them would be too many.
    with torch._dynamo.config.patch(error_on_recompile=True):
        wide, narrow = losses(False), losses(True)
    assert wide != narrow and wide[-1] < 0.9 * wide[0]
    assert narrow == pytest.approx(wide, rel=0.05)


def test_what_cannot_be_multiplied_is_refused() -> None:
    with pytest.raises(UserError, match="no multiple of 16 each way"):
        use_fp8(GPT(GPTConfig(1, 24, 2, 16, 48)), 16)
    with pytest.raises(UserError, match="a micro-batch of 24 tokens"):
        use_fp8(GPT(CONFIG), 24)
    model = GPT(CONFIG)
    for block in model.blocks:
        block.attention.qkv = block.attention.output = nn.Identity()
        block.mlp = nn.Identity()
    with pytest.raises(UserError, match="choose another --precision"):
        use_fp8(model, 16)
