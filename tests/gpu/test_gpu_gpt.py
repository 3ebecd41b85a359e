"""On a GPU, fast and exact ways through the model agree."""

import math

import pytest
import torch

from workshop.models.gpt import GPT, GPTConfig, compile_blocks

CONFIG = GPTConfig(
    layers=3, hidden=256, heads=4, sequence=256, vocabulary=1024
)


def gradients(dtype: str, compiled: bool) -> dict[str, torch.Tensor]:
    """Return loss and gradients of one fixed batch, in float64.

    `dtype` is "float64" for the reference, or "bfloat16" for autocast.
    """
    torch.manual_seed(0)
    model = GPT(CONFIG).cuda()
    if compiled:
        compile_blocks(model)
    if dtype == "float64":
        model = model.double()
    generator = torch.Generator().manual_seed(1)
    tokens, targets = (
        torch.randint(1024, (4, 256), generator=generator).cuda()
        for _ in range(2)
    )
    with torch.autocast("cuda", torch.bfloat16, enabled=dtype == "bfloat16"):
        loss = model(tokens, targets)
    loss.backward()
    gradient = {n: p.grad.double() for n, p in model.named_parameters()}
    return {"loss": loss.detach().double(), **gradient}


@pytest.fixture(scope="module")
def exact() -> dict[str, torch.Tensor]:
    return gradients("float64", compiled=False)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_bf16_autocast_is_close_to_float64(exact, compiled):
    ours = gradients("bfloat16", compiled)
    assert ours.keys() == exact.keys()
    wrong = {n: float((ours[n] - exact[n]).norm()) for n in exact}
    right = {n: float(exact[n].norm()) for n in exact}
    assert wrong.pop("loss") < 1e-3 * right.pop("loss")
    # bf16 rounds by up to 2^-8, again and again from the loss to the input
    total = math.hypot(*wrong.values()) / math.hypot(*right.values())
    assert total < 2e-2
    # a sum in which almost everything cancels keeps fewer digits
    for name in wrong:
        assert wrong[name] < 0.3 * right[name], name
