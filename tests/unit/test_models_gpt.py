"""The dense GPT: what every strategy is compared with must be right."""

import math

import pytest
import torch
import torch.nn.functional as F

from workshop.models.gpt import CONFIGS, GPT, GPTConfig, compile_blocks

SMALL = GPTConfig(layers=2, hidden=16, heads=2, sequence=8, vocabulary=37)


@pytest.fixture
def model():
    """Return a small model in float64 with weights that are not special."""
    torch.manual_seed(0)
    module = GPT(SMALL).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def tokens(rows=3, length=SMALL.sequence):
    """Return random tokens (rows, length)."""
    return torch.randint(0, SMALL.vocabulary, (rows, length))


def by_hand(model, x):
    """Return the logits written out operation by operation."""
    parts = model.state_dict()
    s, h, a = x.shape[1], SMALL.hidden, SMALL.heads

    def norm(y, name):
        centred = y - y.mean(-1, keepdim=True)
        scaled = (
            centred / (y.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        )
        return scaled * parts[f"{name}.weight"] + parts[f"{name}.bias"]

    def linear(y, name):
        return y @ parts[f"{name}.weight"].T + parts[f"{name}.bias"]

    y = parts["embedding.token.weight"][x]
    y = y + parts["embedding.position.weight"][:s]
    mask = torch.full((s, s), -math.inf).double().triu(1)
    for i in range(SMALL.layers):
        block = f"blocks.{i}"
        z = linear(norm(y, f"{block}.norm1"), f"{block}.attention.qkv")
        q, k, v = (
            part.unflatten(-1, (a, h // a)).transpose(1, 2)
            for part in z.split(h, dim=-1)
        )
        scores = q @ k.transpose(-1, -2) / math.sqrt(h // a) + mask
        z = (scores.softmax(-1) @ v).transpose(1, 2).flatten(-2)
        y = y + linear(z, f"{block}.attention.output")
        z = linear(norm(y, f"{block}.norm2"), f"{block}.mlp.up")
        inner = math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)
        z = 0.5 * z * (1 + inner.tanh())
        y = y + linear(z, f"{block}.mlp.down")
    return norm(y, "head.norm") @ parts["embedding.token.weight"].T


def test_logits_equal_the_model_written_out(model):
    """Every operation is the one of GPT-2, in its order."""
    x = tokens()
    torch.testing.assert_close(model(x), by_hand(model, x))


def test_loss_is_the_mean_cross_entropy_in_nats(model):
    """The loss is the mean over all b·s targets."""
    x, y = tokens(), tokens()
    log_p = by_hand(model, x).log_softmax(-1)
    expected = -log_p.gather(-1, y[..., None]).mean()
    torch.testing.assert_close(model(x, y), expected)


def test_no_position_sees_a_later_token(model):
    """Changing the last token changes the last logits alone."""
    x = tokens()
    changed = x.clone()
    changed[:, -1] = (x[:, -1] + 1) % SMALL.vocabulary
    before, after = model(x), model(changed)
    assert torch.equal(before[:, :-1], after[:, :-1])
    assert not torch.equal(before[:, -1], after[:, -1])


def test_the_embedding_is_tied(model):
    """One matrix gets the gradients of both its uses."""
    x, y = tokens(), tokens()
    model(x, y).backward()
    tied = model.embedding.token.weight.grad.clone()
    weight = model.embedding.token.weight
    lookup = weight.detach().clone().requires_grad_()
    output = weight.detach().clone().requires_grad_()
    position = model.embedding.position.weight[: x.shape[1]]
    z = F.embedding(x, lookup) + position
    for block in model.blocks:
        z = block(z)
    model.head(z, output, y).backward()
    torch.testing.assert_close(tied, lookup.grad + output.grad)
    names = [name for name, _ in model.named_parameters()]
    assert sum(name.startswith("head") for name in names) == 2


def test_an_untrained_model_knows_nothing():
    """The first loss is close to ln V, so the weights start small."""
    torch.manual_seed(0)
    config = CONFIGS["tiny"]
    x = torch.randint(0, config.vocabulary, (8, config.sequence + 1))
    loss = GPT(config)(x[:, :-1], x[:, 1:])
    assert loss.item() == pytest.approx(math.log(config.vocabulary), rel=0.01)


def test_residual_outputs_start_smaller_by_depth():
    """Outputs of attention and MLP are scaled by 1/sqrt(2L)."""
    torch.manual_seed(0)
    config = GPTConfig(8, 128, 4, 16, 64)
    model = GPT(config)
    wide = model.blocks[3].mlp.up.weight.std().item()
    deep = model.blocks[3].mlp.down.weight.std().item()
    assert wide == pytest.approx(0.02, rel=0.05)
    assert deep == pytest.approx(0.02 / math.sqrt(16), rel=0.05)


def test_hidden_must_be_divisible_by_heads():
    """A bad size is named, with the other one."""
    with pytest.raises(ValueError, match=r"10.*3 heads"):
        GPTConfig(1, 10, 3, 8, 16)


def test_compiling_changes_nothing_but_speed(model):
    """Captured block by block, loss and gradients stay the same.

    Without code generation, which takes a minute here: the tests on GPUs
    and the recorded runs have it.
    """
    x, y = tokens(), tokens()
    model(x, y).backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    names = list(model.state_dict())
    compile_blocks(model, backend="aot_eager")(x, y).backward()
    assert list(model.state_dict()) == names
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_low_precision_logits_are_summed_in_float32():
    """The loss of a bfloat16 model is close to the float32 one."""
    torch.manual_seed(0)
    model = GPT(SMALL)
    x, y = tokens(), tokens()
    expected = model(x, y)
    loss = model.bfloat16()(x, y)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=0.02)
